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
      const heat = await this.attribute(full);
      some.forEach((_, row) => judged.push({ score: scores[row], heat: heat[row] }));
    }
    return judged;
  }

  // What each pixel of a batch of images contributes to the score, in the score's units.
  async attribute(images) {
    const [, h, w] = this.model.image;
    const [rowCount, columnCount] = this.model.places;
    const heat = images.map(() => new Float32Array(h * w));
    const down = axisViews(this.model.views, h, rowCount);
    const across = axisViews(this.model.views, w, columnCount);
    for (const y of down) {
      for (const x of across) {
        const from = (at) => {
          const row = Math.floor(at / w);
          return (row - (row % h)) * w + y.source[row % h] * w + x.source[at % w];
        };
        const views = images.map((image) => image.map((_, at) => image[from(at)]));
        const [fetched] = await this.attributor.run({ x: joined(views) });
        rows(fetched, images.length).forEach((map, row) => {
          for (let at = 0; at < h * w; at += 1) {
            const [above, below, lower] = y.places[Math.floor(at / w)];
            const [left, right, share] = x.places[at % w];
            const along = (line) => (1 - share) * map[line * columnCount + left] + share * map[line * columnCount + right];
            heat[row][at] += ((1 - lower) * along(above) + lower * along(below)) / (down.length * across.length);
          }
        });
      }
    }
    return heat;
  }
}

// Shifted views of an axis of `pixels`, of which a map has as many `places`: for each pixel of a view that of the image, and for each
// pixel of the image the places of the view's map before and after it with the share of the latter.
function axisViews(most, pixels, places) {
  const apart = pixels / places;
  const count = Math.max(1, Math.min(most, Math.floor(apart)));
  return Array.from({ length: count }, (_, view) => {
    const shift = Math.floor((view * apart) / count);
    const each = Array.from({ length: pixels }, (_, pixel) => pixel);
    return {
      source: each.map((pixel) => Math.min(Math.abs(pixel - shift), pixels - 1)),
      places: each.map((pixel) => {
        const at = Math.min(Math.max((pixel + shift + 0.5) / apart - 0.5, 0), places - 1);
        return [Math.floor(at), Math.min(Math.floor(at) + 1, places - 1), at - Math.floor(at)];
      }),
    };
  });
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
