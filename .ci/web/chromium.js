// Scores images in the exported page in headless Chromium, chosen as a visitor does, and compares with `stssad predict`:
// `node chromium.js DETECTOR.html PREDICTED.jsonl FOLDER`. FOLDER gets the page's looks in windows of 1200 and 390 pixels. Exits 1 where
// the score of a PNG file differs by more than 1e-4 of the spread of all of them, that of a JPEG by more than 0.05, or a verdict differs.
import { copyFileSync, mkdirSync, readFileSync } from "node:fs";
import { extname, join } from "node:path";
import { Page } from "./browser.js";

// Browsers decode JPEG by decoders of their own, and predict by another; PNG has one meaning.
const BOUNDS = { ".png": 1e-4, ".jpg": 0.05 };
const [html, predicted, folder] = process.argv.slice(2, 5);
mkdirSync(folder, { recursive: true });
const rows = readFileSync(predicted, "utf8").trim().split("\n").map((line) => JSON.parse(line)).filter(({ score }) => Number.isFinite(score));
// Under names of their own, since the page shows no folders.
const files = rows.map(({ path }, row) => {
  const file = join(folder, `${row}${extname(path)}`);
  copyFileSync(path, file);
  return file;
});
const scores = rows.map(({ score }) => score);
const spread = Math.max(...scores) - Math.min(...scores);
const page = await Page.open(html);
try {
  await page.until("!part('main').hidden", 300);
  await page.choose("#files", files);
  await page.until(`judged.length >= ${files.length} && part("status").textContent === ""`, 600);
  const threshold = await page.value("model.threshold");
  const judged = await page.value("judged.map(({ name, score }) => ({ name, score, isAnomaly: isFlagged(score) }))");
  await page.screenshots(folder);
  const most = { ".png": 0, ".jpg": 0 };
  let isRight = rows.length > 0 && judged.length === files.length;
  for (const { name, score, isAnomaly } of judged) {
    const row = rows[Number.parseInt(name, 10)];
    const kind = extname(name);
    const share = Math.abs(score - row.score) / spread;
    most[kind] = share <= most[kind] ? most[kind] : share;
    // A verdict may differ where the score lies as near to the threshold as scores may differ.
    const isNear = Math.abs(row.score - threshold) / spread <= BOUNDS[kind];
    if (!(share <= BOUNDS[kind]) || (isAnomaly !== row.anomalous && !isNear)) {
      console.error(`${row.path}: ${score}, not ${row.score}`);
      isRight = false;
    }
  }
  console.log(`Chromium: ${judged.length} images, |Δscore| ≤ ${most[".png"].toExponential(1)} of the spread for PNG, ${most[".jpg"].toExponential(1)} for JPEG`);
  process.exitCode = isRight ? 0 : 1;
} finally {
  await page.close();
}
