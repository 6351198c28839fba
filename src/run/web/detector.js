// Scores images and draws heat maps by the plans of a trained detector. Nothing here knows the page.
class Detector {
  static on(gpu, model) {
    return opened(gpu, async (device) => {
      const states = stored(device, model.weights);
      const on = (plan) => Executor.on(device, model.shaders, plan, states);
      const [scorer, attributor] = await Promise.all([on(model.scorer), on(model.attributor)]);
      const doubles = (base64) => new Float64Array(bytesOf(base64).buffer);
      const fit = model.fit && { mean: doubles(model.fit.mean), root: doubles(model.fit.root) };
      return Object.assign(new Detector(), { model, device, scorer, attributor, fit });
    });
  }

  // The score and the heat map of each image, as `convert` returns it.
  async judge(images) {
    const judged = [];
    for (const { count, full } of batches(images, this.model.batch)) {
      const x = joined(full);
      const [z, direct] = (await this.scorer.run({ x })).map((values) => rows(values, this.model.batch));
      const whitened = this.fit && z.map((row) => whiten(this.fit, row));
      const scores = full.map((_, row) => (this.fit ? Math.hypot(...whitened[row]) : direct[row][0]));
      const heat = await this.attribute(full);
      for (let row = 0; row < count; row += 1) judged.push({ score: scores[row], heat: heat[row] });
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
