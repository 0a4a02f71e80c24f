// The command that pulls an image, in the words of the client that one uses.

import { copyButton } from "./copy.js";
import { h, put } from "./dom.js";

const CLIENTS = ["lamina", "docker", "podman"];
const KEY = "lamina.client";

function remembered() {
  try {
    const client = localStorage.getItem(KEY);
    return CLIENTS.includes(client) ? client : CLIENTS[0];
  } catch {
    return CLIENTS[0];
  }
}

const LOOPBACK = /^(localhost|127(\.\d+){3}|\[::1\])(:\d+)?$/;

/** What to type. Without TLS, podman has to be told, and lamina where the host is not this machine. */
export function pullCommand(client, name) {
  const isPlain = location.protocol === "http:";
  const tells = isPlain && (client === "podman" || (client === "lamina" && !LOOPBACK.test(location.host)));
  return `${client} pull ${tells ? "--tls-verify=false " : ""}${location.host}/${name}`;
}

/** A line with the command, a choice of clients and a button that copies it. */
export function pullLine(name) {
  let client = remembered();
  const line = h("code", { class: "command" });
  const choice = h(
    "select",
    { "aria-label": "Client" },
    CLIENTS.map((one) => h("option", { value: one }, one)),
  );
  const copy = h("span");
  const draw = () => {
    const command = pullCommand(client, name);
    line.textContent = command;
    put(copy, copyButton(command, "command"));
  };
  choice.value = client;
  choice.addEventListener("change", () => {
    client = choice.value;
    try {
      localStorage.setItem(KEY, client);
    } catch {
      // storage is refused: the choice lasts as long as the page
    }
    draw();
  });
  draw();
  return h("div", { class: "pull" }, choice, line, copy);
}
