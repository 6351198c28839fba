"use strict";
// Runs a detector's plans on navigator.gpu. Nothing here knows the page: the same lines run wherever WebGPU is.
// A plan lists buffers by name and, in order, steps: a shader (by its hash), the parts of buffers that it binds in group 0,
// its numbers (a uniform, group 1) and its workgroups.

const f32 = Math.fround;

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

class Executor {
  static async on(device, shaders, plan, states) {
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    const buffers = {};
    for (const [name, size] of Object.entries(plan.buffers)) {
      buffers[name] = states[name] ?? device.createBuffer({ size, usage });
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
  const storage = step.bindings.map(([binding], index) => {
    const type = index + 1 < step.bindings.length ? "read-only-storage" : "storage";
    return { binding, visibility: GPUShaderStage.COMPUTE, buffer: { type } };
  });
  const uniform = [{ binding: 0, visibility: GPUShaderStage.COMPUTE, buffer: { type: "uniform" } }];
  const groups = step.numbers.length > 0 ? [storage, uniform] : [storage];
  const layouts = groups.map((entries) => device.createBindGroupLayout({ entries }));
  const compiled = device.createComputePipelineAsync({
    layout: device.createPipelineLayout({ bindGroupLayouts: layouts }),
    compute: { module: device.createShaderModule({ code }), entryPoint: "main" },
  });
  return { layouts, compiled };
}

class Detector {
  static async on(gpu, model) {
    if (!gpu) throw new Error("This browser has no WebGPU. Open the page in a current Chrome, Edge, Safari or Firefox.");
    const adapter = await gpu.requestAdapter();
    if (!adapter) throw new Error("This browser offers WebGPU no device. Update the graphics driver or the browser, or allow WebGPU in the browser's settings.");
    // Without limits of its own, so that what every WebGPU device has suffices.
    const device = await adapter.requestDevice();
    for (const kind of ["out-of-memory", "validation", "internal"]) device.pushErrorScope(kind);
    const states = {};
    for (const [name, content] of Object.entries(model.weights)) {
      const bytes = bytesOf(content);
      const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
      states[name] = device.createBuffer({ size: bytes.length, usage });
      device.queue.writeBuffer(states[name], 0, bytes);
    }
    const on = (plan) => Executor.on(device, model.shaders, plan, states);
    const [scorer, attributor] = await Promise.all([on(model.scorer), on(model.attributor)]);
    for (let kind = 0; kind < 3; kind += 1) {
      const error = await device.popErrorScope();
      if (error) throw new Error(`This device cannot hold the detector: ${error.message}`);
    }
    const doubles = (base64) => new Float64Array(bytesOf(base64).buffer);
    const fit = model.fit && { mean: doubles(model.fit.mean), root: doubles(model.fit.root) };
    return Object.assign(new Detector(), { model, device, scorer, attributor, fit });
  }

  // The score and the heat map of each image, as `convert` returns it. The last of a batch is repeated to fill it.
  async judge(images) {
    const judged = [];
    for (let first = 0; first < images.length; first += this.model.batch) {
      const some = images.slice(first, first + this.model.batch);
      const full = Array.from({ length: this.model.batch }, (_, row) => some[Math.min(row, some.length - 1)]);
      const x = joined(full);
      const [z, direct] = (await this.scorer.run({ x })).map((values) => rows(values, this.model.batch));
      const whitened = this.fit && z.map((row) => whiten(this.fit, row));
      const scores = full.map((_, row) => (this.fit ? Math.hypot(...whitened[row]) : direct[row][0]));
      const slopes = full.map((_, row) => (this.fit ? slope(this.fit, whitened[row], scores[row]) : [1]));
      const [gradient] = await this.attributor.run({ x, cotangent: joined(slopes) });
      const heat = rows(gradient, this.model.batch).map((image) => this.smooth(image));
      some.forEach((_, row) => judged.push({ score: scores[row], heat: heat[row] }));
    }
    return judged;
  }

  // The magnitudes of the gradient, summed over the channels, under a Gaussian over a sixteenth of the image.
  smooth(gradient) {
    const [c, h, w] = this.model.image;
    const sigma = f32(Math.max(h, w) / 16);
    const size = Math.floor(Math.max(3, ((sigma - 0.8) / 0.3 + 1) * 2 + 1)) | 1;
    const bell = Array.from({ length: size }, (_, at) => Math.exp(-0.5 * ((at - (size >> 1)) / sigma) ** 2));
    const sum = bell.reduce((sum, weight) => sum + weight, 0);
    // Along a line of `count` values that are `step` apart, the `place`th of which is at `pixel`. Its ends go on as they end.
    const along = (values, pixel, step, place, count) => bell.reduce((total, weight, at) => {
      const there = Math.min(Math.max(place + at - (size >> 1), 0), count - 1);
      return total + (weight / sum) * values[pixel + (there - place) * step];
    }, 0);
    const heat = new Float32Array(h * w).map((_, pixel) => {
      let sum = 0;
      for (let channel = 0; channel < c; channel += 1) sum += Math.abs(gradient[channel * h * w + pixel]);
      return sum;
    });
    const across = heat.map((_, pixel) => along(heat, pixel, 1, pixel % w, w));
    return across.map((_, pixel) => along(across, pixel, w, Math.floor(pixel / w), h));
  }
}

function joined(lists) {
  const all = new Float32Array(lists.reduce((sum, list) => sum + list.length, 0));
  lists.forEach((list, row) => all.set(list, row * list.length));
  return all;
}

function rows(values, count) {
  const width = values.length / count;
  return Array.from({ length: count }, (_, row) => values.subarray(row * width, (row + 1) * width));
}

// L⁻¹ · (z − mean), where L · Lᵀ is the covariance of normal images. Its length is the score.
function whiten({ mean, root }, z) {
  const solved = [];
  for (let i = 0; i < mean.length; i += 1) {
    let known = 0;
    for (let j = 0; j < i; j += 1) known += root[i * mean.length + j] * solved[j];
    solved.push((z[i] - mean[i] - known) / root[i * mean.length + i]);
  }
  return solved;
}

// ∂ score / ∂ z: L⁻ᵀ · whitened / score.
function slope({ mean, root }, whitened, score) {
  const solved = [...whitened];
  for (let i = mean.length - 1; i >= 0; i -= 1) {
    let known = 0;
    for (let j = i + 1; j < mean.length; j += 1) known += root[j * mean.length + i] * solved[j];
    solved[i] = (solved[i] - known) / root[i * mean.length + i];
  }
  return solved.map((value) => (score > 0 ? value / score : 0));
}
