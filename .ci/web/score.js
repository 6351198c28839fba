// Scores images in the exported page's own scripts, on Dawn, and compares with `stssad predict`:
// `node score.js DETECTOR.html PREDICTED.jsonl`. Exits 1 where a score differs by more than 1e-4 of the scores' spread, or a
// comparison with a wrong weight agrees.
import { readFileSync } from "node:fs";
import { create, globals } from "webgpu";

Object.assign(globalThis, globals);
// Kept: Dawn ends with it.
const gpu = create([]);
const [html, predicted] = process.argv.slice(2, 4).map((path) => readFileSync(path, "utf8"));
const element = (id) => html.match(new RegExp(`<script id="${id}"[^>]*>([^]*?)</script>`))[1];
const { Detector, decodePng, convert } = new Function(`${element("runner")}\nreturn { Detector, decodePng, convert };`)();
const rows = [];
let left = 0;
for (const { path, score } of predicted.trim().split("\n").map((line) => JSON.parse(line))) {
  if (!Number.isFinite(score)) continue;
  const picture = await decodePng(new Uint8Array(readFileSync(path)));
  // What the page leaves to the browser, interlaced files for example, Node cannot decode.
  picture ? rows.push({ score, picture }) : (left += 1);
}
const expected = rows.map((row) => row.score);
const spread = Math.max(...expected) - Math.min(...expected);

// The largest difference as a share of the spread; NaN if a score is no number.
async function difference(model) {
  const detector = await Detector.on(gpu, model);
  const judged = await detector.judge(rows.map(({ picture }) => convert(model, picture)));
  if (!judged.every(({ heat }) => heat.every(Number.isFinite) && heat.some((value) => value > 0))) return NaN;
  return judged.reduce((most, { score }, row) => Math.max(most, Math.abs(score - expected[row]) / spread), 0);
}

const right = await difference(JSON.parse(element("model")));
const wrong = JSON.parse(element("model"));
const [name, weight] = Object.entries(wrong.weights).find(([name]) => name.endsWith("weight"));
const values = new Float32Array(Uint8Array.from(Buffer.from(weight, "base64")).buffer);
values[0] += 0.5;
wrong.weights[name] = Buffer.from(values.buffer).toString("base64");
const planted = await difference(wrong);
console.log(`${rows.length} images, ${left} left out: |Δscore| ≤ ${right.toExponential(1)} of the spread ${spread.toPrecision(3)}; with a wrong ${name} ${planted.toExponential(1)}`);
const agrees = (share) => share <= 1e-4;
const isNoticed = Number.isFinite(planted) && !agrees(planted);
process.exit(rows.length > 0 && spread > 0 && agrees(right) && isNoticed ? 0 : 1);
