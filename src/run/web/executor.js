"use strict";
// Runs plans on navigator.gpu. Nothing here knows the page: the same lines run wherever WebGPU is.
// A plan lists buffers by name and, in order, steps: a shader (by its hash), the parts of buffers that it binds in group 0,
// its numbers (a uniform, group 1) and its workgroups; then what is copied into states, and what is fetched.

const f32 = Math.fround;

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

class Executor {
  static async on(device, shaders, plan, states) {
    const buffers = {};
    for (const [name, size] of Object.entries(plan.buffers)) {
      buffers[name] = states[name] ?? storage(device, size);
    }
    for (const [name, content] of Object.entries(plan.constants)) {
      device.queue.writeBuffer(buffers[name], 0, bytesOf(content));
    }
    // Each step's numbers begin where every device lets a uniform begin.
    const uniforms = device.createBuffer({
      size: 256 * plan.steps.length,
      usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
    });
    const part = ([name, offset, size]) => ({ buffer: buffers[name], offset, size });
    const made = {};
    const steps = plan.steps.map(async (step, index) => {
      made[step.shader] ??= pipeline(device, shaders[step.shader], step);
      const { layouts, compiled } = made[step.shader];
      const bound = step.bindings.map(([binding, ...place]) => ({ binding, resource: part(place) }));
      const groups = [device.createBindGroup({ layout: layouts[0], entries: bound })];
      if (step.numbers.length > 0) {
        device.queue.writeBuffer(uniforms, 256 * index, new Uint32Array(step.numbers));
        const resource = { buffer: uniforms, offset: 256 * index, size: 16 * Math.ceil(step.numbers.length / 4) };
        groups.push(device.createBindGroup({ layout: layouts[1], entries: [{ binding: 0, resource }] }));
      }
      return { pipeline: await compiled, groups, workgroups: step.workgroups };
    });
    const size = plan.fetches.reduce((sum, [, , bytes]) => sum + bytes, 0);
    const results = device.createBuffer({ size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
    return Object.assign(new Executor(), { device, plan, buffers, results, steps: await Promise.all(steps) });
  }

  // Runs the plan on what is fed by name, and returns what it fetches, in order.
  async run(feeds) {
    for (const [name, values] of Object.entries(feeds)) {
      this.device.queue.writeBuffer(this.buffers[`feed ${name}`], 0, values);
    }
    const encoder = this.device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    for (const { pipeline, groups, workgroups } of this.steps) {
      pass.setPipeline(pipeline);
      groups.forEach((group, index) => pass.setBindGroup(index, group));
      pass.dispatchWorkgroups(...workgroups);
    }
    pass.end();
    for (const [[from, start, bytes], [to, end]] of this.plan.copies) {
      encoder.copyBufferToBuffer(this.buffers[from], start, this.buffers[to], end, bytes);
    }
    let end = 0;
    for (const [name, offset, bytes] of this.plan.fetches) {
      encoder.copyBufferToBuffer(this.buffers[name], offset, this.results, end, bytes);
      end += bytes;
    }
    this.device.queue.submit([encoder.finish()]);
    await this.results.mapAsync(GPUMapMode.READ);
    const values = new Float32Array(this.results.getMappedRange().slice(0));
    this.results.unmap();
    let start = 0;
    return this.plan.fetches.map(([, , bytes]) => values.subarray(start, (start += bytes / 4)));
  }
}

// The layouts are written out, because a browser's own leave out what a shader does not use.
function pipeline(device, code, step) {
  const buffers = step.bindings.map(([binding], index) => {
    const type = index + 1 < step.bindings.length ? "read-only-storage" : "storage";
    return { binding, visibility: GPUShaderStage.COMPUTE, buffer: { type } };
  });
  const uniform = [{ binding: 0, visibility: GPUShaderStage.COMPUTE, buffer: { type: "uniform" } }];
  const groups = step.numbers.length > 0 ? [buffers, uniform] : [buffers];
  const layouts = groups.map((entries) => device.createBindGroupLayout({ entries }));
  const compiled = device.createComputePipelineAsync({
    layout: device.createPipelineLayout({ bindGroupLayouts: layouts }),
    compute: { module: device.createShaderModule({ code }), entryPoint: "main" },
  });
  return { layouts, compiled };
}

// What `make(device)` makes on a device of the browser's WebGPU. Errors say what the visitor can do.
async function opened(gpu, make) {
  if (!gpu) throw new Error("This browser has no WebGPU. Open the page in a current Chrome, Edge, Safari or Firefox.");
  const adapter = await gpu.requestAdapter();
  if (!adapter) throw new Error("This browser offers WebGPU no device. Update the graphics driver or the browser, or allow WebGPU in the browser's settings.");
  // Without limits of its own, so that what every WebGPU device has suffices.
  const device = await adapter.requestDevice();
  for (const kind of ["out-of-memory", "validation", "internal"]) device.pushErrorScope(kind);
  const made = await make(device);
  for (let kind = 0; kind < 3; kind += 1) {
    const error = await device.popErrorScope();
    if (error) throw new Error(`This device cannot hold what the page computes: ${error.message}`);
  }
  return made;
}

// A buffer of zeros that kernels read and write.
function storage(device, size) {
  return device.createBuffer({ size, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST });
}

// Buffers by name, with what is given in base64.
function stored(device, contents) {
  const buffer = (bytes) => {
    const made = storage(device, bytes.length);
    device.queue.writeBuffer(made, 0, bytes);
    return made;
  };
  return Object.fromEntries(Object.entries(contents).map(([name, content]) => [name, buffer(bytesOf(content))]));
}

function joined(lists) {
  const all = new Float32Array(lists.reduce((sum, list) => sum + list.length, 0));
  lists.forEach((list, row) => all.set(list, row * list.length));
  return all;
}

// `images` in batches of `size`, each with how many it has; the last is repeated to fill it.
function batches(images, size) {
  return Array.from({ length: Math.ceil(images.length / size) }, (_, batch) => {
    const some = images.slice(batch * size, (batch + 1) * size);
    return { count: some.length, full: Array.from({ length: size }, (_, row) => some[Math.min(row, some.length - 1)]) };
  });
}

function rows(values, count) {
  const width = values.length / count;
  return Array.from({ length: count }, (_, row) => values.subarray(row * width, (row + 1) * width));
}
