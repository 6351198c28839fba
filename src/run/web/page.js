// What the pages share: their elements, their messages, and images on canvases.
const part = (id) => document.getElementById(id);

function say(text, isWrong = false) {
  part("status").textContent = text;
  part("status").className = isWrong ? "wrong" : "";
}

// Draws an image [C, H, W] in its own size. `tint(at)`, where there is one, is the colour over pixel `at` and its alpha.
function draw(canvas, [channels, height, width], image, tint = () => [[0, 0, 0], 0]) {
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  for (let at = 0; at < width * height; at += 1) {
    const [colour, alpha] = tint(at);
    for (let channel = 0; channel < 3; channel += 1) {
      const level = 255 * image[(channels === 1 ? 0 : channel) * width * height + at];
      pixels.data[4 * at + channel] = (1 - alpha) * level + alpha * colour[channel];
    }
    pixels.data[4 * at + 3] = 255;
  }
  context.putImageData(pixels, 0, 0);
}
