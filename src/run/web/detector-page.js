// What the visitor sees.
const model = JSON.parse(document.getElementById("model").textContent);
// More images than these are scored and counted, but only the most anomalous are shown.
const SHOWN = 200;
const judged = [];
let queue = Promise.resolve();
let detector;

const isFlagged = (score) => score >= model.threshold;
const number = (value) => value.toPrecision(4);

// The elements of an image: a picture with its heat map over it, the score and the verdict.
function card(name) {
  const [figure, canvas, caption] = ["figure", "canvas", "figcaption"].map((tag) => document.createElement(tag));
  figure.append(canvas, caption);
  const show = (image, { score, heat }) => {
    paint(canvas, image, part("heat").checked ? heat : undefined);
    const value = document.createElement("strong");
    const verdict = document.createElement("span");
    value.textContent = Number.isFinite(score) ? number(score) : "no finite score";
    if (model.threshold !== null) {
      verdict.textContent = isFlagged(score) ? "anomaly" : "normal";
      verdict.className = isFlagged(score) ? "anomaly" : "normal";
    }
    const title = document.createElement("span");
    Object.assign(title, { textContent: name, className: "name", title: name });
    caption.replaceChildren(value, verdict, title);
  };
  return { figure, show };
}

function paint(canvas, image, heat) {
  const most = heat ? heat.reduce((most, value) => Math.max(most, value), 0) : 0;
  draw(canvas, model.image, image, (at) => {
    const share = most > 0 ? Math.max(0, heat[at] / most) : 0;
    return [[255, 255 * Math.max(0, 1.4 - 1.6 * share), 40], 0.65 * share];
  });
}

// Scores of held-out normal images in grey, those of the visitor's in colour, the threshold as a line.
function histogram() {
  const own = judged.map(({ score }) => score).filter(Number.isFinite);
  const known = [...own, ...model.held_out];
  if (model.threshold !== null) known.push(model.threshold);
  const [least, most] = known.reduce(([a, b], score) => [Math.min(a, score), Math.max(b, score)], [Infinity, -Infinity]);
  const [bins, width, height] = [40, 800, 170];
  const place = (score) => (most > least ? (score - least) / (most - least) : 0.5);
  const shares = (scores) => {
    const counts = new Array(bins).fill(0);
    scores.forEach((score) => { counts[Math.min(bins - 1, Math.floor(place(score) * bins))] += 1; });
    const top = Math.max(1, ...counts);
    return counts.map((count) => count / top);
  };
  const bars = (scores, kind, inset) => shares(scores).map((share, bin) => share === 0 ? "" :
    `<rect class="${kind}" x="${(bin * width) / bins + inset}" y="${height - 20 - share * (height - 30)}" width="${width / bins - 2 * inset}" height="${share * (height - 30)}"/>`).join("");
  const line = model.threshold === null ? "" :
    `<line x1="${place(model.threshold) * width}" x2="${place(model.threshold) * width}" y1="0" y2="${height - 20}"/>`;
  const label = (x, anchor, score) => `<text x="${x}" y="${height - 3}" text-anchor="${anchor}">${number(score)}</text>`;
  part("histogram").innerHTML = known.length === 0 ? "" :
    `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="Histogram of scores">${bars(model.held_out, "held", 1)}${bars(own, "own", 5)}${line}${label(0, "start", least)}${label(width, "end", most)}</svg>`;
}

function refresh() {
  judged.sort((one, other) => other.score - one.score);
  part("cards").replaceChildren(...judged.slice(0, SHOWN).map((one) => one.card.figure));
  judged.slice(SHOWN).forEach((one) => { one.image = one.heat = undefined; });
  const flagged = judged.filter(({ score }) => isFlagged(score)).length;
  const images = judged.length === 1 ? "1 image" : `${judged.length} images`;
  const anomalies = flagged === 1 ? "1 anomaly" : `${flagged} anomalies`;
  part("heading").textContent = model.threshold === null ? images : `${images}, ${anomalies}`;
  part("results").hidden = judged.length === 0;
  histogram();
}

// Scores files batch by batch, after those that came before.
function add(files) {
  queue = queue.then(async () => {
    const bad = [];
    for (let first = 0; first < files.length; first += model.batch) {
      say(`Scoring ${first + 1} of ${files.length} …`);
      const ready = [];
      for (const file of files.slice(first, first + model.batch)) {
        try {
          ready.push({ name: file.name, image: convert(model, await decode(file)) });
        } catch {
          bad.push(file.name);
        }
      }
      const results = await detector.judge(ready.map(({ image }) => image));
      ready.forEach(({ name, image }, row) => {
        const one = { ...results[row], name, image, card: card(name) };
        one.card.show(image, one);
        judged.push(one);
      });
      refresh();
    }
    say(bad.length > 0 ? `Not images that this browser can read: ${bad.join(", ")}` : "", bad.length > 0);
  }).catch((error) => say(error.message, true));
  return queue;
}

// The files of what was dropped, those in folders too.
async function dropped(items) {
  const entries = [...items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
  const files = [];
  while (entries.length > 0) {
    const entry = entries.shift();
    if (entry.isFile) {
      files.push(await new Promise((done, failed) => entry.file(done, failed)));
    } else {
      const reader = entry.createReader();
      const read = () => new Promise((done, failed) => reader.readEntries(done, failed));
      for (let some = await read(); some.length > 0; some = await read()) entries.push(...some);
    }
  }
  return files.filter((file) => file.type.startsWith("image/"));
}

let stream;
async function camera() {
  if (stream) {
    stream.getTracks().forEach((track) => track.stop());
    stream = undefined;
    part("camera").textContent = "Camera";
    part("live").hidden = true;
    return;
  }
  if (!navigator.mediaDevices) throw new Error("This browser gives pages no camera.");
  stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  const video = Object.assign(document.createElement("video"), { srcObject: stream, muted: true, playsInline: true });
  await video.play();
  const view = card("camera");
  part("live").replaceChildren(view.figure);
  part("live").hidden = false;
  part("camera").textContent = "Stop the camera";
  while (stream) {
    const image = convert(model, drawn(video, video.videoWidth, video.videoHeight));
    await (queue = queue.then(async () => view.show(image, (await detector.judge([image]))[0])));
    await new Promise(requestAnimationFrame);
  }
}

async function start() {
  const [channels, height, width] = model.image;
  const threshold = model.threshold === null
    ? "The model has no threshold, so there are scores without verdicts."
    : `An image is an anomaly from the score ${number(model.threshold)} on.`;
  part("about").textContent = `${model.method}, trained on ${channels === 1 ? "grey" : "RGB"} images of ${width} × ${height} pixels. ${threshold}`;
  part("legend").textContent = `Red: your images. Grey: ${model.held_out.length} normal images held out of training. Each is scaled to its highest bar.${model.threshold === null ? "" : " Line: the threshold."}`;
  detector = await Detector.on(navigator.gpu, model);
  detector.device.lost.then(({ message }) => say(`The device was lost: ${message} Reload the page.`, true));
  say("");
  part("main").hidden = false;
  for (const id of ["files", "folder"]) {
    part(id).addEventListener("change", ({ target }) => {
      add([...target.files].filter((file) => file.type.startsWith("image/")));
      target.value = "";
    });
  }
  part("camera").addEventListener("click", () => camera().catch((error) => say(`No camera: ${error.message}`, true)));
  part("heat").addEventListener("change", () => judged.slice(0, SHOWN).forEach((one) => one.card.show(one.image, one)));
  document.addEventListener("dragover", (event) => { event.preventDefault(); part("drop").className = "over"; });
  document.addEventListener("dragleave", () => { part("drop").className = ""; });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    part("drop").className = "";
    dropped(event.dataTransfer.items).then(add, (error) => say(error.message, true));
  });
}

start().catch((error) => say(error.message, true));
