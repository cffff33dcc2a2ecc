// A backend by node's own http module and the `ws` package: `backend_node.mjs PORT NAME`.
//
// Closes connections that were idle for 300 ms, so that a gateway's kept ones go away under it. /echo gives a body back as it comes, /hello a text,
// /events three server-sent events, / a page that uses all of them, /ws a WebSocket that greets at once and echoes. SIGTERM ends it in good order.
import http from "node:http";
import { WebSocketServer } from "ws";

const [port, name] = process.argv.slice(2);

const PAGE = `<!doctype html><meta charset="utf-8"><title>proof</title><body><script>
const found = {};
const done = [
  ...Array.from({ length: 20 }, (_, at) => fetch("/hello?" + at).then(answer => answer.text())).concat([
    fetch("/echo", { method: "POST", body: "x".repeat(300000) }).then(answer => answer.text()).then(text => text.length),
  ]),
  new Promise((resolve, reject) => {
    const socket = new WebSocket(location.origin.replace("http", "ws") + "/ws"), heard = [];
    socket.onerror = () => reject(new Error("the WebSocket broke"));
    socket.onmessage = ({ data }) => {
      heard.push(data);
      if (heard.length === 1) socket.send("from the page");
      else { socket.close(1000, "enough"); resolve(heard.join(" | ")); }
    };
  }),
  new Promise((resolve, reject) => {
    const events = new EventSource("/events"), heard = [];
    events.onerror = () => reject(new Error("the events broke"));
    events.onmessage = ({ data }) => { heard.push(data); if (heard.length === 3) { events.close(); resolve(heard.join(",")); } };
  }),
];
Promise.all(done).then(
  all => {
    const protocols = performance.getEntriesByType("resource").map(entry => entry.nextHopProtocol).filter(Boolean);
    document.body.textContent = JSON.stringify({ all, protocols: [...new Set(protocols)] });
  },
  error => { document.body.textContent = JSON.stringify({ error: String(error) }); },
);
</script>`;

const server = http.createServer((request, answer) => {
  answer.setHeader("X-Backend", name);
  const path = request.url.split("?")[0];
  if (path === "/echo") {
    request.on("error", () => answer.destroy());
    if (request.headers["content-length"]) answer.setHeader("Content-Length", request.headers["content-length"]);
    return request.pipe(answer);
  }
  if (path === "/events") {
    answer.writeHead(200, { "Content-Type": "text/event-stream" });
    let sent = 0;
    const timer = setInterval(() => {
      answer.write(`data: ${++sent}\n\n`);
      if (sent === 3) clearInterval(timer);
    }, 50);
    return request.on("close", () => { clearInterval(timer); answer.end(); });
  }
  if (path === "/") return answer.writeHead(200, { "Content-Type": "text/html" }).end(PAGE);
  answer.end(`${name} `);
});
server.keepAliveTimeout = 300;

const sockets = new WebSocketServer({ server, path: "/ws" });
sockets.on("connection", socket => {
  socket.send("hello");
  socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
});
server.listen(Number(port), "127.0.0.1");
process.on("SIGTERM", () => {
  server.close(() => process.exit(0));
  for (const socket of sockets.clients) socket.close(1001);
  server.closeIdleConnections();
});
