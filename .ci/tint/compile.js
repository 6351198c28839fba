// Compiles every WGSL file of a folder with Tint, Chrome's compiler, as a browser would: `node compile.js DIR`. Exits 1 where one
// is refused. First it makes sure that errors of two kinds are found: of types, and of uniformity, which naga does not see.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { create, globals } from "webgpu";

Object.assign(globalThis, globals);
// Kept: Dawn ends with it.
const gpu = create([]);
const adapter = await gpu.requestAdapter();
if (!adapter) {
  console.error("Tint needs a Vulkan driver: see `make setup`");
  process.exit(1);
}
const features = ["shader-f16", "subgroups"].filter((feature) => adapter.features.has(feature));
const { maxComputeWorkgroupStorageSize } = adapter.limits;
const device = await adapter.requestDevice({
  requiredFeatures: features,
  requiredLimits: { maxComputeWorkgroupStorageSize },
});

// What is wrong with the text; undefined if it compiles.
async function refusal(code) {
  device.pushErrorScope("validation");
  const module = device.createShaderModule({ code });
  const { messages } = await module.getCompilationInfo();
  const errors = messages.filter((message) => message.type === "error");
  const places = errors.map((error) => `line ${error.lineNum}: ${error.message}`);
  if (errors.length === 0) {
    const compute = { module, entryPoint: "main" };
    await device.createComputePipelineAsync({ layout: "auto", compute }).catch((error) => places.push(error.message));
  }
  const error = await device.popErrorScope();
  if (error && places.length === 0) places.push(error.message);
  return places.length > 0 ? places.join("\n") : undefined;
}

const kernel = (body) =>
  `@group(0) @binding(0) var<storage, read_write> y: array<f32>;
   @compute @workgroup_size(64) fn main(@builtin(local_invocation_index) i: u32) { ${body} }`;
const planted = ["y[i] = i;", "if y[i] > 0.0 { workgroupBarrier(); }"].map(kernel);
for (const code of planted) {
  if (!(await refusal(code))) {
    console.error(`Tint accepts what is wrong:\n${code}`);
    process.exit(1);
  }
}

const folder = process.argv[2];
const files = readdirSync(folder).filter((file) => file.endsWith(".wgsl")).sort();
let refused = 0;
for (const file of files) {
  const code = readFileSync(join(folder, file), "utf8");
  const reason = await refusal(code);
  if (reason) {
    console.error(`${file}: ${code.split("\n")[0]}\n${reason}\n`);
    refused += 1;
  }
}
console.log(`Tint on ${adapter.info.description}: ${files.length - refused} of ${files.length} specialisations compile`);
// Dawn's threads would keep the process.
process.exit(refused === 0 && files.length > 0 ? 0 : 1);
