// Scores images in the exported page's own scripts, on Dawn, and compares with `stssad predict --maps`:
// `node score.js DETECTOR.html PREDICTED.jsonl`. Exits 1 where a score or a value of a heat map differs by more than 1e-4 of the
// spread of all of them, or a comparison with a wrong weight agrees.
import { readFileSync } from "node:fs";
import { create, globals } from "webgpu";
import { load } from "./page.js";

Object.assign(globalThis, globals);
// Kept: Dawn ends with it.
const gpu = create([]);
const [html, predicted] = process.argv.slice(2, 4);
const { model: right, Detector, decodePng, convert } = load(html, ["Detector", "decodePng", "convert"]);
const rows = [];
let left = 0;
for (const { path, score, map } of readFileSync(predicted, "utf8").trim().split("\n").map((line) => JSON.parse(line))) {
  if (!Number.isFinite(score)) continue;
  const picture = await decodePng(new Uint8Array(readFileSync(path)));
  // What the page leaves to the browser, such as JPEG, Node cannot decode.
  picture ? rows.push({ score, heat: array(map), picture }) : (left += 1);
}

// The values beside an overlay of `predict --maps`, in NumPy's format.
function array(overlay) {
  const bytes = readFileSync(overlay.replace(/overlays\/([^/]*)\.png$/, "values/$1.npy"));
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset + 10 + bytes.readUInt16LE(8), bytes.byteOffset + bytes.length));
}

const spread = (values) => values.reduce((most, value) => Math.max(most, value), -Infinity) - values.reduce((least, value) => Math.min(least, value), Infinity);
const scores = spread(rows.map(({ score }) => score));
const heats = spread(rows.flatMap(({ heat }) => [...heat]));

// The largest difference of a score and of a heat value as shares of their spreads; NaN if one is no number.
async function difference(model) {
  const detector = await Detector.on(gpu, model);
  const judged = await detector.judge(rows.map(({ picture }) => convert(model, picture)));
  const most = (values) => values.reduce((most, value) => Math.max(most, value), 0);
  const heat = judged.map(({ heat }, row) => most(rows[row].heat.map((value, at) => Math.abs(value - heat[at]) / heats)));
  return [most(judged.map(({ score }, row) => Math.abs(score - rows[row].score) / scores)), most(heat)];
}

const found = await difference(right);
const wrong = structuredClone(right);
const [name, weight] = Object.entries(wrong.weights).find(([name]) => name.endsWith("weight"));
const values = new Float32Array(Uint8Array.from(Buffer.from(weight, "base64")).buffer);
values[0] += 0.5;
wrong.weights[name] = Buffer.from(values.buffer).toString("base64");
const planted = await difference(wrong);
const shown = (shares) => shares.map((share) => share.toExponential(1)).join(" and ");
console.log(`${rows.length} images, ${left} left out: |Δscore| and |Δheat| ≤ ${shown(found)} of the spreads ${scores.toPrecision(3)} and ${heats.toPrecision(3)}; with a wrong ${name} ${shown(planted)}`);
const agrees = (share) => share <= 1e-4;
const isNoticed = planted.every((share) => Number.isFinite(share) && !agrees(share));
process.exit(rows.length > 0 && scores > 0 && heats > 0 && found.every(agrees) && isNoticed ? 0 : 1);
