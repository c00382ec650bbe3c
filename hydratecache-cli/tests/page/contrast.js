// The texts of the page whose contrast with their ground is below 4.5, which is what WCAG 2 asks for.
const channels = (colour) => colour.match(/[\d.]+/g).map(Number);
const luminance = ([red, green, blue]) => {
  const [r, g, b] = [red, green, blue].map((channel) => {
    const share = channel / 255;
    return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = channels(getComputedStyle(at).backgroundColor);
    if (colour.length === 3 || colour[3] === 1) return colour;
  }
  throw new Error("the page has no ground");
};
const contrast = (element) => {
  const [light, dark] = [channels(getComputedStyle(element).color), ground(element)]
    .map(luminance)
    .sort((a, b) => b - a);
  return (light + 0.05) / (dark + 0.05);
};
const isText = (node) => node.nodeType === Node.TEXT_NODE && node.data.trim() !== "";
const texts = [...document.body.querySelectorAll("*")].filter(
  (element) => !["SCRIPT", "NOSCRIPT", "TEMPLATE"].includes(element.tagName) && [...element.childNodes].some(isText),
);
if (texts.length < 100) throw new Error(`only ${texts.length} texts: the page is not there yet`);
return texts.filter((element) => contrast(element) < 4.5).map((element) => `${contrast(element).toFixed(2)}: ${element.textContent.trim()}`);
