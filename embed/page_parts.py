"""The style and the script of a page of answers, as text: they go into the page itself."""

STYLE = """
:root {
  --ground: #f4f4f2; --card: #ffffff; --frame: #e9e9e6; --ink: #1b1c1e; --soft: #63676d; --line: #dededa; --mark: #0b62d6;
  --on-mark: #ffffff; --shade: 0 1px 2px rgb(0 0 0 / 5%), 0 4px 14px rgb(0 0 0 / 5%);
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #121315; --card: #1c1e21; --frame: #26292d; --ink: #ededee; --soft: #a2a7ad; --line: #303338; --mark: #7db3ff;
    --on-mark: #10131a; --shade: 0 1px 2px rgb(0 0 0 / 40%);
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.45 system-ui, -apple-system, "Segoe UI", sans-serif; }
header, .tools, main { padding-left: clamp(12px, 3vw, 44px); padding-right: clamp(12px, 3vw, 44px); }
header { display: flex; gap: 24px; align-items: center; padding-top: 24px; padding-bottom: 14px; }
h1 { margin: 0 0 4px; font-size: clamp(20px, 2.4vw, 30px); line-height: 1.2; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { margin: 0 0 12px; font-size: 16px; overflow-wrap: anywhere; }
section { margin-bottom: 34px; } section[hidden] { display: none; }
.about { flex: 1; min-width: 0; }
.note { margin: 0; color: var(--soft); overflow-wrap: anywhere; }
.asked { display: flex; gap: 12px; flex-wrap: wrap; max-width: 60%; }
.asked figure { margin: 0; width: 190px; }
.asked img { display: block; max-width: 100%; max-height: 150px; border-radius: 10px; }
.asked .gone { border-radius: 10px; }
figcaption {
  margin-top: 6px; color: var(--soft); font-size: 13px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap;
}
.tools {
  position: sticky; top: 0; z-index: 2; display: flex; gap: 6px 14px; align-items: center; flex-wrap: wrap;
  padding-top: 10px; padding-bottom: 10px; background: var(--ground); border-bottom: 1px solid var(--line);
}
#filter {
  flex: 0 1 340px; min-width: 0; padding: 8px 14px; font: inherit; color: inherit;
  background: var(--card); border: 1px solid var(--line); border-radius: 99px;
}
#shown { color: var(--soft); font-variant-numeric: tabular-nums; white-space: nowrap; }
.keys { margin: 0 0 0 auto; color: var(--soft); font-size: 13px; }
kbd {
  font: inherit; font-size: 12px; padding: 1px 6px; margin: 0 2px 0 8px; background: var(--card);
  border: 1px solid var(--line); border-bottom-width: 2px; border-radius: 5px;
}
kbd + kbd { margin-left: 0; }
main { padding-top: 20px; padding-bottom: 60px; }
.grid {
  list-style: none; margin: 0; padding: 0; display: grid; gap: 18px;
  grid-template-columns: repeat(auto-fill, minmax(min(210px, 42vw), 1fr));
}
.card {
  position: relative; padding-bottom: 9px; background: var(--card); border-radius: 12px; overflow: hidden; box-shadow: var(--shade);
  cursor: zoom-in; scroll-margin: 70px 0 20px;
}
.card[hidden] { display: none; }
.card:focus-visible, #filter:focus-visible, dialog :focus-visible { outline: 3px solid var(--mark); outline-offset: 2px; }
.frame { position: relative; background: var(--frame); }
.frame a { display: block; cursor: inherit; }
.frame img, .frame .gone { display: block; width: 100%; aspect-ratio: 4 / 3; object-fit: contain; }
.gone { display: grid !important; place-items: center; color: var(--soft); background: var(--frame); min-height: 90px; font-size: 13px; }
.label {
  position: absolute; top: 9px; left: 9px; padding: 2px 10px; border-radius: 99px; background: var(--mark); color: var(--on-mark);
  font-size: 12px; font-weight: 600; max-width: calc(100% - 18px); overflow: hidden; text-overflow: ellipsis; white-space: nowrap;
}
main:has(.set) { display: flex; flex-wrap: wrap; gap: 20px; align-items: flex-start; }
.set {
  flex: 0 1 calc(var(--cards) * 228px + 14px); min-width: min(100%, 300px); max-width: 100%; margin: 0; padding: 14px 16px 16px;
  border: 1px solid var(--line); border-radius: 16px;
}
.set h2 { font-size: 14px; font-weight: 500; color: var(--soft); margin-bottom: 10px; }
.set .grid { gap: 14px; grid-template-columns: repeat(auto-fill, minmax(min(200px, 36vw), 1fr)); }
.set .card:not(:first-child) .label { background: var(--card); color: var(--ink); box-shadow: var(--shade); }
.near { height: 3px; background: var(--line); }
.near::before { content: ""; display: block; height: 100%; width: var(--near); background: var(--mark); }
.line { display: flex; gap: 10px; justify-content: space-between; padding: 9px 12px 0; font-size: 14px; }
.name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; font-weight: 500; }
.distance { color: var(--soft); font-variant-numeric: tabular-nums; }
.more { margin: 0; padding: 0 12px; color: var(--soft); font-size: 13px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
#none { color: var(--soft); }
dialog {
  width: min(1000px, 94vw); max-height: 92vh; padding: 20px; overflow: auto; color: inherit; background: var(--card);
  border: 1px solid var(--line); border-radius: 16px; box-shadow: 0 20px 60px rgb(0 0 0 / 35%);
}
dialog::backdrop { background: rgb(0 0 0 / 60%); }
.pair { display: flex; gap: 14px; }
.pair figure { flex: 1 1 0; min-width: 0; margin: 0; }
.pair figcaption { text-align: center; }
dialog:focus { outline: none; }
.pair img, .pair .gone {
  display: block; width: 100%; height: min(52vh, 420px); object-fit: contain; background: var(--frame); border-radius: 10px;
}
.told h2 { margin: 16px 0 8px; font-size: 18px; padding-right: 30px; }
.told dl { display: grid; grid-template-columns: auto minmax(0, 1fr); gap: 3px 16px; margin: 0; font-size: 14px; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.links { display: flex; justify-content: space-between; margin: 14px 0 0; }
.links a { color: var(--mark); } .links span { color: var(--soft); font-variant-numeric: tabular-nums; }
dialog button {
  position: absolute; top: 10px; right: 10px; width: 34px; height: 34px; font: inherit; font-size: 20px; line-height: 1; color: inherit;
  background: var(--card); border: 1px solid var(--line); border-radius: 99px; cursor: pointer;
}
@media (max-width: 900px) { .keys { display: none; } #filter { flex: 1 1 180px; } }
@media (max-width: 560px) {
  header { flex-direction: column; align-items: stretch; gap: 14px; padding-top: 14px; }
  .asked { max-width: none; flex-wrap: nowrap; } .asked figure { flex: 0 1 60%; min-width: 0; width: auto; }
  .grid { gap: 12px; }
  .line { padding: 8px 10px 0; } .more { padding: 0 10px; }
  .pair { gap: 8px; } .pair img, .pair .gone { height: 34vh; }
  dialog { padding: 12px; }
}
@media (hover: hover) { .card:hover { box-shadow: 0 0 0 2px var(--mark); } }
@media print { .tools, dialog { display: none; } .card { break-inside: avoid; box-shadow: none; border: 1px solid var(--line); } }
"""

SCRIPT = """
"use strict";
const field = document.getElementById("filter"), shown = document.getElementById("shown");
const none = document.getElementById("none"), cards = [...document.querySelectorAll(".card")];
const viewer = document.getElementById("viewer"), asked = [...document.querySelectorAll(".asked figure")];
let looked = null;
const visible = () => cards.filter((card) => !card.hidden);
function sift() {
  const words = field.value.toLowerCase().split(/\\s+/).filter(Boolean);
  for (const card of cards) card.hidden = !words.every((word) => card.dataset.words.includes(word));
  for (const section of document.querySelectorAll("section"))
    section.hidden = !section.querySelector(".card:not([hidden])");
  const count = visible().length;
  shown.textContent = `${count} of ${cards.length}`;
  none.hidden = count > 0 || cards.length === 0;
}
function below(card, step) {
  const here = card.getBoundingClientRect(), middle = here.left + here.width / 2;
  let best = null, least = Infinity;
  for (const other of visible()) {
    const there = other.getBoundingClientRect(), down = (there.top - here.top) * step;
    const apart = down * 4 + Math.abs(there.left + there.width / 2 - middle);
    if (down > 4 && apart < least) { best = other; least = apart; }
  }
  return best;
}
function move(key) {
  const list = visible(), at = list.indexOf(document.activeElement);
  if (!list.length) return;
  let next = null;
  if (key === "End") next = list[list.length - 1];
  else if (at < 0 || key === "Home") next = list[0];
  else if (key === "ArrowRight") next = list[at + 1];
  else if (key === "ArrowLeft") next = list[at - 1];
  else next = below(list[at], key === "ArrowDown" ? 1 : -1);
  if (next) { next.focus(); next.scrollIntoView({ block: "nearest" }); }
}
function figure(place) {
  const made = document.createElement("figure"), caption = document.createElement("figcaption");
  const name = place.querySelector("figcaption, .label") || place.querySelector(".name");
  caption.textContent = name.textContent;
  made.append(place.querySelector("img, .gone").cloneNode(true), caption);
  return made;
}
function look(card) {
  const set = card.closest(".set"), first = set && set.querySelector(".card");
  const beside = set ? (first === card ? [] : [first]) : asked;
  viewer.querySelector(".pair").replaceChildren(...[...beside, card].map(figure));
  const distance = card.querySelector(".distance"), link = card.querySelector("a");
  viewer.querySelector("h2").textContent = card.querySelector(".name").textContent;
  const facts = viewer.querySelector("dl");
  facts.replaceChildren(...[...card.querySelector("dl").children].map((child) => child.cloneNode(true)));
  if (distance) {
    const name = document.createElement("dt"), value = document.createElement("dd");
    name.textContent = "distance"; value.textContent = distance.textContent;
    facts.prepend(name, value);
  }
  const open = viewer.querySelector(".links a");
  open.hidden = !link;
  if (link) open.href = link.href;
  const list = visible();
  viewer.querySelector(".links span").textContent = `${list.indexOf(card) + 1} of ${list.length}`;
  looked = card;
  if (!viewer.open) { viewer.showModal(); viewer.focus(); }
}
function step(by) {
  const list = visible(), next = list[list.indexOf(looked) + by];
  if (next) look(next);
}
field.addEventListener("input", sift);
function leave() { viewer.close(); looked.focus(); }
viewer.querySelector("button").addEventListener("click", leave);
viewer.addEventListener("click", (event) => { if (event.target === viewer) leave(); });
for (const card of cards) card.addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  look(card);
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key;
  if (viewer.open) {
    if (key === "Escape") { event.preventDefault(); leave(); }
    if (key === "ArrowRight" || key === "ArrowDown") { event.preventDefault(); step(1); }
    if (key === "ArrowLeft" || key === "ArrowUp") { event.preventDefault(); step(-1); }
    if (key === "o" || key === "O") viewer.querySelector(".links a").click();
    return;
  }
  if (key === "Escape") { field.value = ""; sift(); field.blur(); return; }
  if (document.activeElement === field) {
    if (key === "ArrowDown" || key === "Enter") { event.preventDefault(); field.blur(); move("Home"); }
    return;
  }
  if (key === "/") { event.preventDefault(); field.focus(); return; }
  if (["ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp", "Home", "End"].includes(key)) {
    event.preventDefault(); move(key); return;
  }
  const card = document.activeElement && document.activeElement.closest(".card");
  if (!card) return;
  if (key === "Enter" || key === " " || key === "i") { event.preventDefault(); look(card); }
  const link = card.querySelector("a");
  if ((key === "o" || key === "O") && link) location.href = link.href;
});
"""
