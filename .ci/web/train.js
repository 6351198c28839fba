// Trains the exported page's detector by the page's own scripts, on Dawn: `node train.js DEMO.html`. Exits 1 unless the angle, from 230°,
// comes to 180° ± 25° and the 9s get greater scores than the 6s.
import { create, globals } from "webgpu";
import { draws, load } from "./page.js";

Object.assign(globalThis, globals);
// Kept: Dawn ends with it.
const gpu = create([]);
const { model: task, Trainer, auroc } = load(process.argv[2], ["Trainer", "auroc"]);
Math.random = draws(1);

const trainer = await Trainer.on(gpu, task);
const degrees = () => (trainer.angle * 180) / Math.PI;
const from = degrees();
const before = auroc(task, await trainer.scores());
const start = performance.now();
for (let done = 0; done < task.steps; done += 1) {
  const { inner } = await trainer.step();
  if (!Number.isFinite(inner)) throw new Error(`the training loss of step ${done + 1} is ${inner}`);
}
const speed = task.steps / ((performance.now() - start) / 1000);
const after = auroc(task, await trainer.scores());
console.log(`${task.steps} steps, ${speed.toFixed(1)} steps/s: from ${from.toFixed(0)}° to ${degrees().toFixed(0)}°, AUROC from ${before.toFixed(3)} to ${after.toFixed(3)}`);
process.exit(Math.abs(from - 230) < 1 && Math.abs(degrees() - 180) <= 25 && after >= 0.9 ? 0 : 1);
