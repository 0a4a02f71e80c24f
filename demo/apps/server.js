// One page. The port is the first argument; the second is an address (default: loopback).
const fs = require('node:fs')
const http = require('node:http')

const port = Number(process.argv[2] || 8080)
const name = /^PRETTY_NAME="(.*)"$/m.exec(fs.readFileSync('/etc/os-release', 'utf8'))[1]

const server = http.createServer((request, response) => {
  response.setHeader('Content-Type', 'text/plain')
  response.end(`hello from node ${process.version} on ${name}\n`)
})
server.listen(port, process.argv[3] || '127.0.0.1')
process.on('SIGTERM', () => {
  server.closeAllConnections()
  server.close()
})
