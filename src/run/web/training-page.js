// What the visitor sees.
const task = JSON.parse(document.getElementById("model").textContent);
const degrees = (angle) => (((angle * 180) / Math.PI) % 360 + 360) % 360;
const whole = (angle) => `${Math.round(degrees(angle)) % 360}°`;
let trainer;
let history = [];
let isTraining = false;

// Canvases of images, beside one another.
function show(id, images) {
  part(id).replaceChildren(...images.map((image) => {
    const canvas = document.createElement("canvas");
    draw(canvas, task.image, image);
    return canvas;
  }));
}

function dial(angle) {
  const at = (turn, radius) => `${100 + radius * Math.sin(turn)} ${100 - radius * Math.cos(turn)}`;
  const marks = [0, 90, 180, 270].map((mark) => {
    const [x, y] = at((mark * Math.PI) / 180, 62).split(" ");
    return `<text x="${x}" y="${Number(y) + 5}" text-anchor="middle">${mark}°</text>`;
  }).join("");
  part("dial").innerHTML = `<svg viewBox="0 0 200 216" role="img" aria-label="The angle, ${whole(angle)}"><circle cx="100" cy="100" r="84"/>${marks}<path class="needle" d="M 100 100 L ${at(angle, 50)}"/><text class="large" x="100" y="208" text-anchor="middle">${whole(angle)}</text></svg>`;
}

function curves() {
  const [width, height] = [600, 200];
  const x = (step) => (step / task.steps) * width;
  const losses = history.filter(({ outer }) => outer !== undefined);
  const most = losses.reduce((most, { outer }) => Math.max(most, outer), 1e-9);
  const line = (points) => points.map(([x, y], index) => `${index === 0 ? "M" : "L"} ${x.toFixed(1)} ${y.toFixed(1)}`).join(" ");
  const y = (share) => height - 4 - share * (height - 8);
  const angles = line(history.map(({ step, angle }) => [x(step), y(degrees(angle) / 360)]));
  const outers = line(losses.map(({ step, outer }) => [x(step), y(outer / most)]));
  part("curves").innerHTML = `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="Angle and alignment loss by step"><line x1="0" x2="${width}" y1="${y(0.5)}" y2="${y(0.5)}"/><text x="4" y="${y(0.5) - 5}">180°</text><path class="loss" d="${outers}"/><path class="angle" d="${angles}"/></svg>`;
}

async function look() {
  const normal = trainer.sets.x.slice(0, task.shown);
  show("normal", normal);
  show("turned", await trainer.augmented(normal));
  dial(trainer.angle);
}

async function find() {
  const scores = await trainer.scores();
  const order = scores.map((_, row) => row).sort((one, other) => scores[other] - scores[one]);
  const images = (of) => of.map((row) => trainer.sets.x_val[row]);
  show("most", images(order.slice(0, 12)));
  show("least", images(order.slice(-12).reverse()));
  part("auroc").textContent = `The angle went from ${whole(history[0].angle)} to ${whole(trainer.angle)}. With the labels, which training never saw, the AUROC is ${auroc(task, scores).toFixed(3)}: so often a 9 has a greater score than a 6.`;
  part("found").hidden = false;
}

async function train() {
  isTraining = true;
  part("train").textContent = "Stop";
  part("found").hidden = true;
  trainer.begin((Number(part("from").value) * Math.PI) / 180);
  history = [{ step: 0, angle: trainer.angle }];
  const start = performance.now();
  while (isTraining && trainer.done < task.steps) {
    const { step, inner, outer } = await trainer.step();
    if (!Number.isFinite(inner)) throw new Error(`The training loss is not finite at step ${step}. Start again from another angle.`);
    history.push({ step, outer, angle: trainer.angle });
    const seconds = (performance.now() - start) / 1000;
    say(step <= task.warm_up ? `Step ${step} of ${task.steps}: the detector warms up` : `Step ${step} of ${task.steps}: ${whole(trainer.angle)}`);
    part("speed").textContent = step < seconds ? `${(seconds / step).toFixed(1)} s a step` : `${(step / seconds).toFixed(1)} steps/s`;
    if (step % 2 === 0 || step === task.steps) {
      await look();
      curves();
    }
    // Lets the browser draw.
    await new Promise((done) => setTimeout(done, 0));
  }
  await look();
  await find();
  say("");
  isTraining = false;
  part("train").textContent = "Train again";
}

async function start() {
  trainer = await Trainer.on(navigator.gpu, task);
  trainer.device.lost.then(({ message }) => say(`The device was lost: ${message} Reload the page.`, true));
  part("from").value = Math.round(degrees(task.a[0]));
  const chosen = () => {
    const angle = (Number(part("from").value) * Math.PI) / 180;
    part("chosen").textContent = whole(angle);
    if (!isTraining) dial(angle);
  };
  part("from").addEventListener("input", chosen);
  part("train").addEventListener("click", () => {
    if (isTraining) {
      isTraining = false;
      return;
    }
    train().catch((error) => {
      isTraining = false;
      part("train").textContent = "Train again";
      say(error.message, true);
    });
  });
  await look();
  chosen();
  curves();
  say("");
  part("main").hidden = false;
}

start().catch((error) => say(error.message, true));
