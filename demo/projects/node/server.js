const http = require("http");
const ms = require("ms");

const port = Number(process.argv[2] || 3000);
const server = http.createServer((request, response) => response.end(`hello from node: two days are ${ms("2 days")} ms\n`));
server.listen(port, "127.0.0.1");
process.on("SIGTERM", () => server.close(() => process.exit(0)));
