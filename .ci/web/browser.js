// A page in headless Chromium, spoken to by its DevTools protocol over pipes. WebGPU runs on the browser's own SwiftShader.
import { spawn } from "node:child_process";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

// Width and height of the windows whose screenshots are kept: a desktop and a phone.
const WINDOWS = [[1200, 900], [390, 844]];

export class Page {
  // A page from the disk.
  static async open(file) {
    const [width, height] = WINDOWS[0];
    const profile = mkdtempSync(join(tmpdir(), "chromium-"));
    const flags = ["--headless", "--no-sandbox", "--enable-unsafe-webgpu", "--remote-debugging-pipe", `--user-data-dir=${profile}`];
    const program = process.env.CHROMIUM ?? "chromium-headless-shell";
    const browser = spawn(program, flags, { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
    const page = Object.assign(new Page(), { browser, calls: new Map(), count: 0, errors: [] });
    browser.on("error", (error) => {
      throw new Error(`cannot start ${program}: ${error.message}`);
    });
    let received = "";
    browser.stdio[4].on("data", (data) => {
      received += data;
      for (let end = received.indexOf("\0"); end >= 0; end = received.indexOf("\0")) {
        page.receive(JSON.parse(received.slice(0, end)));
        received = received.slice(end + 1);
      }
    });
    const { targetId } = await page.call("Target.createTarget", { url: "about:blank", width, height });
    page.session = (await page.call("Target.attachToTarget", { targetId, flatten: true })).sessionId;
    await page.call("Runtime.enable");
    await page.resize([width, height]);
    await page.call("Page.navigate", { url: pathToFileURL(resolve(file)).href });
    return page;
  }

  receive({ id, result, error, method, params }) {
    if (method === "Runtime.exceptionThrown") this.errors.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
    if (id === undefined) return;
    const { done, failed } = this.calls.get(id);
    error ? failed(new Error(error.message)) : done(result);
  }

  call(method, params = {}) {
    return new Promise((done, failed) => {
      const id = (this.count += 1);
      this.calls.set(id, { done, failed });
      this.browser.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId: this.session })}\0`);
    });
  }

  resize([width, height]) {
    return this.call("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: width < 600 });
  }

  // The value of an expression in the page, awaited.
  async value(expression) {
    const { result, exceptionDetails } = await this.call("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  }

  // Waits until an expression is true. The page's own error message ends the wait.
  async until(expression, seconds) {
    for (const end = Date.now() + 1000 * seconds; ; ) {
      const [is, wrong] = await this.value(`[Boolean(${expression}), document.querySelector("#status.wrong")?.textContent]`).catch(() => [false]);
      if (wrong || this.errors.length > 0) throw new Error(wrong || this.errors.join("\n"));
      if (is) return;
      if (Date.now() > end) throw new Error(`not after ${seconds} s: ${expression}`);
      await new Promise((done) => setTimeout(done, 200));
    }
  }

  // Chooses files in an input, as a visitor does.
  async choose(selector, files) {
    const { root } = await this.call("DOM.getDocument");
    const { nodeId } = await this.call("DOM.querySelector", { nodeId: root.nodeId, selector });
    await this.call("DOM.setFileInputFiles", { nodeId, files: files.map((file) => resolve(file)) });
  }

  // Its looks in windows of 1200 and 390 pixels, as files of a folder.
  async screenshots(folder) {
    for (const window of WINDOWS) {
      await this.resize(window);
      const { data } = await this.call("Page.captureScreenshot", { captureBeyondViewport: true });
      writeFileSync(join(folder, `${window[0]}.png`), Buffer.from(data, "base64"));
    }
  }

  // Ends the browser.
  async close() {
    const ended = new Promise((done) => this.browser.on("exit", done));
    await this.call("Browser.close");
    await ended;
  }
}
