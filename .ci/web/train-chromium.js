// Trains in the exported page in headless Chromium, as a visitor does: `node train-chromium.js DEMO.html FOLDER`. FOLDER gets the page's
// looks in windows of 1200 and 390 pixels. Exits 1 unless the angle, from 230°, comes to 180° ± 25° and the AUROC to 0.9. Without a GPU
// Chromium computes a step in some ten seconds, so CI trains by the same scripts in Node instead (train.js), with the same draws.
import { mkdirSync } from "node:fs";
import { Page } from "./browser.js";
import { draws } from "./page.js";

const SECONDS = 7200;
const [html, folder] = process.argv.slice(2, 4);
mkdirSync(folder, { recursive: true });
const page = await Page.open(html);
try {
  await page.until("!part('main').hidden", 600);
  await page.value(`Math.random = (${draws})(1), null`);
  const start = performance.now();
  await page.value("part('train').click()");
  let told = 0;
  for (let step = 0; step < (await page.value("task.steps")); ) {
    await page.until(`history.length > ${step + 1} || !isTraining`, SECONDS);
    step = await page.value("history.length - 1");
    if (step >= told + 10) {
      told = step;
      console.log(`step ${step}: ${await page.value("whole(trainer.angle)")}, ${((performance.now() - start) / 1000 / step).toFixed(1)} s a step`);
    }
  }
  await page.until("!part('found').hidden && !isTraining", SECONDS);
  const { steps, from, to } = await page.value("({ steps: trainer.done, from: degrees(history[0].angle), to: degrees(trainer.angle) })");
  const after = await page.value("trainer.scores().then((scores) => auroc(task, scores))");
  const speed = await page.value("part('speed').textContent");
  await page.screenshots(folder);
  console.log(`Chromium: ${steps} steps, ${speed}: from ${from.toFixed(0)}° to ${to.toFixed(0)}°, AUROC ${after.toFixed(3)}`);
  process.exitCode = Math.abs(from - 230) < 1 && Math.abs(to - 180) <= 25 && after >= 0.9 ? 0 : 1;
} finally {
  await page.close();
}
