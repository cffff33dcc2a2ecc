// A page through the gateway in a headless Chromium: `browser.mjs URL PROTOCOL`. The page (backend_node.mjs) fetches, posts, follows events and talks over
// a WebSocket; what it says it found is printed. PROTOCOL is what the page must have been fetched by: h2 or http/1.1.
import { chromium } from "playwright-core";

const [url, protocol] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox"],
});
try {
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  const page = await context.newPage(), errors = [];
  page.on("pageerror", error => errors.push(String(error)));
  await page.goto(url, { timeout: 20_000 });
  await page.waitForFunction(() => document.body.textContent.startsWith("{"), undefined, { timeout: 20_000 });
  const found = JSON.parse(await page.evaluate(() => document.body.textContent));
  if (found.error || errors.length) throw new Error(`${found.error} ${errors}`);
  const hellos = found.all.slice(0, 20), [posted, talked, events] = found.all.slice(20);
  if (!hellos.every(text => /^\w+ $/.test(text))) throw new Error(`answers: ${hellos}`);
  if (posted !== 300_000) throw new Error(`a body of 300000 bytes came back as ${posted}`);
  if (talked !== "hello | from the page") throw new Error(`the WebSocket said ${talked}`);
  if (events !== "1,2,3") throw new Error(`the events were ${events}`);
  if (!found.protocols.includes(protocol)) throw new Error(`spoken was ${found.protocols}, not ${protocol}`);
  // A second time: connections are there.
  await page.reload({ timeout: 20_000 });
  await page.waitForFunction(() => document.body.textContent.startsWith("{\"all"), undefined, { timeout: 20_000 });
  console.log(`page, 40 fetches, 2 posts, WebSocket and events by ${protocol}`);
} finally {
  await browser.close();
}
