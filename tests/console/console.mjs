// The console in a real browser: opens the page of a running node, writes through its Redis door, and waits until the commit
// stands on the page.
//
//   node console.mjs ADMIN_PORT REDIS_PORT SCREENSHOT.png [dark] [WIDTHxHEIGHT]
//
// Before: `npm ci` here. The browser is /usr/bin/chromium or what CHROMIUM names. Exit code 0 where all of this holds, else 1
// and what does not: the page says that the node is ready; rows appear for a SET and for a MULTI with a stream, each with
// its commands, keys and bytes; a key full of markup is shown as text; the gateway's panel shows
// routes, or how to add the first, and the registry's services, or how to register one; the page asked for nothing but its own door; no error
// stood on the browser's console; and it is no wider than the window.
import net from "node:net";
import { chromium } from "playwright-core";

const [admin, redis, picture, ...rest] = process.argv.slice(2);
if (!picture) {
  console.error("usage: node console.mjs ADMIN_PORT REDIS_PORT SCREENSHOT.png [dark] [WIDTHxHEIGHT]");
  process.exit(1);
}
const [width, height] = (rest.find(word => /^\d+x\d+$/.test(word)) ?? "1280x800").split("x").map(Number);
const colorScheme = rest.includes("dark") ? "dark" : "light";
const PATIENCE_MS = 15_000;

function check(holds, what) {
  if (!holds) throw new Error(what);
}

/// Sends commands and resolves once as many simple answers have come: each is one line here.
function send(port, commands) {
  return new Promise((resolve, reject) => {
    const socket = net.connect(Number(port), "127.0.0.1");
    let answer = "";
    socket.on("error", reject);
    socket.on("data", data => {
      answer += data;
      if (/^-/m.test(answer)) reject(new Error(`the node refused: ${answer}`));
      if (answer.includes("+PONG\r\n")) {
        socket.end();
        resolve();
      }
    });
    const encode = words => `*${words.length}\r\n` + words.map(word => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join("");
    socket.write([...commands, ["PING"]].map(encode).join(""));
  });
}

async function run(browser) {
  const page = await browser.newPage({ viewport: { width, height }, colorScheme });
  const errors = [], elsewhere = [];
  page.on("console", message => message.type() === "error" && errors.push(message.text()));
  page.on("pageerror", error => errors.push(String(error)));
  page.on("request", request => {
    const url = new URL(request.url());
    if (url.protocol !== "data:" && url.host !== `127.0.0.1:${admin}`) elsewhere.push(request.url());
  });
  await page.goto(`http://127.0.0.1:${admin}/`, { timeout: PATIENCE_MS });
  await page.waitForSelector("#health.good, #health.warn", { timeout: PATIENCE_MS });

  const mark = `console:${process.pid}`, markup = `${mark}:<img src=x onerror=alert(1)>`;
  await send(redis, [["CLIENT", "SETNAME", "console-test"], ["SET", `${mark}:key`, "x".repeat(300)]]);
  const row = key => page.locator("#rows .row", { hasText: key }).first();
  await row(`${mark}:key`).waitFor({ timeout: PATIENCE_MS });
  await send(redis, [["SET", markup, "1"]]);
  await send(redis, [["MULTI"], ["SET", `${mark}:whole`, "1"], ["XADD", `${mark}:stream`, "*", "field", "value"], ["EXEC"]]);
  await row(`${mark}:whole`).waitFor({ timeout: PATIENCE_MS });

  const set = await row(`${mark}:key`).innerText(), multi = row(`${mark}:whole`);
  check(/\bSET\b/.test(set) && /\d B\b/.test(set) && /console-test|127\.0\.0\.1/.test(set), `a row lacks something: ${set}`);
  const parts = await multi.innerText();
  check(/MULTI/.test(parts) && /XADD/.test(parts), `a MULTI is not shown as one: ${parts}`);
  check(await multi.locator(".chip.stream", { hasText: `${mark}:stream` }).count() === 1, "the stream is not shown as one");
  const shown = row("<img");
  await shown.waitFor({ timeout: PATIENCE_MS });
  check(await shown.locator("img").count() === 0, "a key became markup");
  // The status comes once a second.
  const counted = () => Number(document.getElementById("commands-total").textContent.replaceAll("\u202f", "")) > 0;
  await page.waitForFunction(counted, undefined, { timeout: PATIENCE_MS });

  // The gateway: its routes, or one line that says how to add the first.
  const front = page.locator("#front");
  await front.waitFor({ timeout: PATIENCE_MS });
  const routes = await front.locator("#routes .line b").count(), first = await front.locator(".first code").count();
  check(routes > 0 ? first === 0 : first === 1, "the gateway shows neither its routes nor how to add the first");

  // The registry: its services, or one line that says how to register the first.
  await page.locator("#registry").waitFor({ timeout: PATIENCE_MS });
  const services = await page.locator("#services .service").count(), begin = await page.locator("#registry-head .first code").count();
  check(services > 0 ? begin === 0 : begin === 1, "the registry shows neither its services nor how to register the first");

  // The rates of this second come with the next one.
  await page.waitForTimeout(1200);
  await page.screenshot({ path: picture });
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  check(wide <= 0, `the page is ${wide} pixels wider than the window`);
  check(elsewhere.length === 0, `the page asked elsewhere: ${elsewhere.join(", ")}`);
  check(errors.length === 0, `the browser's console has errors:\n${errors.join("\n")}`);
}

let browser;
try {
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
  await run(browser);
  console.log(`console: ok, ${picture}`);
} catch (error) {
  console.error(`console: ${error.message}`);
  process.exitCode = 1;
} finally {
  await browser?.close();
}
