// Trains a detector by the plans of its step: the detector's update alone while it warms up, and then the angle's as well. Nothing here
// knows the page.
class Trainer {
  static on(gpu, task) {
    return opened(gpu, async (device) => {
      const states = {};
      for (const plan of [task.plain, task.tuning, task.scorer]) {
        for (const [name, size] of Object.entries(plan.buffers)) {
          if (name.startsWith("state ")) states[name] ??= storage(device, size);
        }
      }
      const on = (plan) => Executor.on(device, task.shaders, plan, states);
      const [plain, tuning, augmenter, scorer] = await Promise.all([task.plain, task.tuning, task.augmented, task.scorer].map(on));
      const sets = { x: imagesOf(task, task.train), x_val: imagesOf(task, task.unlabelled) };
      const trainer = Object.assign(new Trainer(), { task, device, states, plain, tuning, augmenter, scorer, sets });
      trainer.begin(task.a[0]);
      return trainer;
    });
  }

  // Moves to the first step, from this angle in radians.
  begin(angle) {
    for (const [name, buffer] of Object.entries(this.states)) {
      const content = this.task.states[name];
      this.device.queue.writeBuffer(buffer, 0, content ? bytesOf(content) : new Uint8Array(buffer.size));
    }
    this.device.queue.writeBuffer(this.states["state a"], 0, new Float32Array([angle]));
    this.done = 0;
    this.angle = angle;
    // A 64-bit number in four parts, as the kernel that draws random numbers takes it.
    this.seed = Array.from({ length: 4 }, () => Math.floor(65536 * Math.random()));
    this.orders = { x: [], x_val: [] };
  }

  // The next images of a set, in an order that is drawn anew when fewer are left.
  draw(name, count) {
    const set = this.sets[name];
    if (this.orders[name].length < count) {
      const order = set.map((_, row) => row);
      for (let row = order.length - 1; row > 0; row -= 1) {
        const other = Math.floor((row + 1) * Math.random());
        [order[row], order[other]] = [order[other], order[row]];
      }
      this.orders[name] = order;
    }
    return joined(this.orders[name].splice(0, count).map((row) => set[row]));
  }

  key(step) {
    return new Float32Array([...this.seed, step & 0xffff, step >>> 16]);
  }

  // One step. The training loss, and from the end of the warm-up on the alignment loss and the angle after the step.
  async step() {
    const { task } = this;
    const step = (this.done += 1);
    const feeds = {
      x: this.draw("x", task.batch),
      rates: rates(task.adam.theta, task.learning_rate, step),
      key: this.key(step),
    };
    if (step <= task.warm_up) {
      const [[inner]] = await this.plain.run(feeds);
      return { step, inner };
    }
    const update = step - task.warm_up;
    // Half a cosine from 1 towards 0, so that the angle settles.
    const rate = 0.5 + 0.5 * Math.cos((Math.PI * (update - 1)) / (task.steps - task.warm_up));
    Object.assign(feeds, { x_val: this.draw("x_val", task.batch_val), rates_a: rates(task.adam.a, rate, update) });
    const [[inner, , , outer, angle]] = await this.tuning.run(feeds);
    this.angle = angle;
    return { step, inner, outer, angle };
  }

  // These images, turned as the detector sees them at the present angle.
  async augmented(images) {
    const [turned] = await this.augmenter.run({ x: joined(images), key: this.key(0), a: new Float32Array([this.angle]) });
    return rows(turned, images.length);
  }

  // The score of each unlabelled image: the logit of being augmented.
  async scores() {
    const encoder = this.device.createCommandEncoder();
    for (const [parameter, packed, offset, bytes] of this.task.parameters) {
      encoder.copyBufferToBuffer(this.states[packed], offset, this.states[parameter], 0, bytes);
    }
    this.device.queue.submit([encoder.finish()]);
    const scores = [];
    for (const { count, full } of batches(this.sets.x_val, this.task.scored)) {
      const [, logits] = await this.scorer.run({ x: joined(full) });
      scores.push(...logits.subarray(0, count));
    }
    return scores;
  }
}

// [rate, 1 − β₁ᵗ, 1 − β₂ᵗ] for update number t, which counts from 1.
function rates(betas, rate, t) {
  return new Float32Array([rate, ...betas.map((beta) => 1 - f32(beta) ** t)]);
}

function imagesOf(task, levels) {
  const pixels = Float32Array.from(bytesOf(levels), (level) => level / 255);
  return rows(pixels, pixels.length / task.image.reduce((product, extent) => product * extent, 1));
}

// How often an anomalous unlabelled image has a greater score than a normal one; equal scores count half.
function auroc({ anomalous }, scores) {
  const of = (label) => scores.filter((_, row) => anomalous[row] === label);
  const [anomalies, normals] = [of(true), of(false)];
  const won = anomalies.flatMap((one) => normals.map((other) => (one > other ? 1 : one === other ? 0.5 : 0)));
  return won.reduce((sum, share) => sum + share, 0) / won.length;
}
