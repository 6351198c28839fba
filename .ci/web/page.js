// What an exported page holds, for scripts that run it outside of a browser.
import { readFileSync } from "node:fs";

// The text of a page's <script> of this id.
const element = (html, id) => html.match(new RegExp(`<script id="${id}"[^>]*>([^]*?)</script>`))[1];

// A page's model, and some of the names that its runner declares.
export function load(file, names) {
  const html = readFileSync(file, "utf8");
  const declared = new Function(`${element(html, "runner")}\nreturn { ${names.join(", ")} };`)();
  return { model: JSON.parse(element(html, "model")), ...declared };
}

// Random numbers in (0, 1), the same every time, by Park and Miller's generator: in place of Math.random.
export const draws = (state) => () => (state = (16807 * state) % 2147483647) / 2147483647;
