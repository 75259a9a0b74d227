// Keys and saving for the reading pages. Without this file every button is a plain form and works, too.
"use strict";

const items = [...document.querySelectorAll("form.item")];
const message = document.getElementById("message");
const list = document.getElementById("comments");
const letters = list.dataset.letters;
const reserved = { j: () => move(1), k: () => move(-1), n: nextUnread, c: write, u: () => press(current, "") };
reserved.ArrowDown = reserved.j;
reserved.ArrowUp = reserved.k;
const comments = JSON.parse(list.dataset.comments);  // address that saves an item -> comments about it so far
let current = 0;
let queue = Promise.resolve();  // requests go one after the other, so that the last key wins

const isRead = (item) => item.querySelector('[aria-pressed="true"]') !== null || item.dataset.level === "?";

function select(index, scroll = true) {
  if (!items.length) return;
  items[current].classList.remove("current");
  current = Math.max(0, Math.min(items.length - 1, index));
  items[current].classList.add("current");
  items[current].focus({ preventScroll: true });
  if (scroll) items[current].scrollIntoView({ block: "nearest" });
  showComments();
}

function move(step) {
  select(current + step);
}

function nextUnread() {
  const after = items.findIndex((item, index) => index > current && !isRead(item));
  const first = items.findIndex((item) => !isRead(item));
  if (after >= 0 || first >= 0) return select(after >= 0 ? after : first);
  const following = document.getElementById("following");
  say(following ? "All read here; Enter opens the next." : "All read.", "done");
  if (following) following.focus();
}

function say(text, kind = "") {
  message.textContent = text;
  message.className = kind;
  message.hidden = !text;
}

function write() {
  const field = items[current].elements.comment;
  field.focus();
  field.setSelectionRange(field.value.length, field.value.length);
}

function press(index, level) {
  const item = items[index];
  const buttons = [...item.querySelectorAll("button")];
  if (level && !buttons.some((button) => button.value === level)) return;
  for (const button of buttons) button.setAttribute("aria-pressed", String(button.value === level));
  item.dataset.level = level;
  save(item, { level });
  if (level) nextUnread();  // at once, so that the next key is for the next item
}

function save(item, values) {
  item.classList.add("unsaved");
  item.querySelector(".saved").textContent = "saving …";
  if ("comment" in values) item.elements.comment.value = item.elements.comment.defaultValue = values.comment;
  queue = queue.then(() => send(item, values));
}

async function send(item, values) {
  const body = new URLSearchParams();
  for (const name of ["form", "card", "seen"]) body.set(name, item.elements[name].value);
  for (const [name, value] of Object.entries(values)) body.set(name, value);
  let answer;
  try {
    const response = await fetch(item.action, { method: "POST", body, headers: { Accept: "application/json" } });
    answer = await response.json();
    if (answer.error) throw new Error(answer.error);
  } catch (error) {
    item.querySelector(".saved").textContent = "NOT SAVED";
    return say(`Not saved: ${error.message}. Is the server still running? Press the key again.`);
  }
  item.classList.remove("unsaved");
  const address = item.getAttribute("action");
  for (const other of items) if (other.getAttribute("action") === address) show(other, answer.states[other.elements.card.value]);
  comments[address] = answer.comments;
  showComments();
  if (!answer.conflict) return;
  say(answer.conflict);
  if (values.comment) item.elements.comment.value = joined(item.elements.comment.value, values.comment);
  select(items.indexOf(item));
}

function joined(text, more) {
  const lines = text.split("\n").map((line) => line.trim()).filter(Boolean);
  return [...lines, ...more.split("\n").filter((line) => !lines.includes(line))].join("\n");
}

function show(item, state) {
  if (!state || item.classList.contains("unsaved")) return;  // its own answer is still to come
  item.elements.seen.value = state.seen;
  item.dataset.level = state.level;
  for (const button of item.querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.value === state.level));
  if (document.activeElement !== item.elements.comment) item.elements.comment.value = item.elements.comment.defaultValue = state.comment;
  item.querySelector(".saved").textContent = `${state.when} ${state.who}`;
  showProgress();
}

function showProgress() {
  document.getElementById("progress").textContent = `${items.filter(isRead).length} of ${items.length} read`;
}

function addComment(text) {
  save(items[current], { comment: joined(items[current].elements.comment.value, text) });
}

function showComments() {
  const texts = items.length ? comments[items[current].getAttribute("action")] || [] : [];
  list.replaceChildren(...texts.slice(0, letters.length).map((text, index) => {
    const button = document.createElement("button");
    const key = document.createElement("kbd");
    key.textContent = letters[index];
    button.append(key, ` ${text}`);
    button.type = "button";
    button.addEventListener("click", () => addComment(text));
    const entry = document.createElement("li");
    entry.append(button);
    return entry;
  }));
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || !items.length) return;
  const field = event.target.closest("textarea");
  if (field) {
    if (event.key === "Escape" || (event.key === "Enter" && !event.shiftKey)) {
      event.preventDefault();
      const item = field.form;
      if (event.key === "Enter") save(item, { comment: field.value });
      else field.value = field.defaultValue;
      select(items.indexOf(item), false);
    }
    return;
  }
  if (event.target.closest("a, summary, button, input") && ["Enter", " "].includes(event.key)) return;
  const letter = letters.indexOf(event.key);
  const texts = comments[items[current].getAttribute("action")] || [];
  if (reserved[event.key]) reserved[event.key]();
  else if (/^[0-9]$/.test(event.key)) press(current, event.key);
  else if (letter >= 0 && letter < texts.length) addComment(texts[letter]);
  else return;
  event.preventDefault();
});

for (const [index, item] of items.entries()) {
  item.addEventListener("submit", (event) => {
    event.preventDefault();
    if (current !== index) select(index, false);
    if (event.submitter) press(index, event.submitter.value);
  });
  item.addEventListener("click", () => { if (current !== index) select(index, false); });
  item.addEventListener("focusin", () => { if (current !== index && document.activeElement !== item) mark(index); });
  item.elements.comment.addEventListener("change", () => {
    if (item.elements.comment.value !== item.elements.comment.defaultValue) save(item, { comment: item.elements.comment.value });
  });
}

// Tab came here: the field keeps the focus.
function mark(index) {
  items[current].classList.remove("current");
  current = index;
  items[current].classList.add("current");
  showComments();
}

// A click into a report gives its frame the keys; they are taken back, unless Tab went there.
let tabbed = false;
document.addEventListener("keydown", (event) => { tabbed = event.key === "Tab"; });
document.addEventListener("pointerdown", () => { tabbed = false; });
window.addEventListener("blur", () => setTimeout(() => {
  if (!tabbed && document.activeElement instanceof HTMLIFrameElement) { window.focus(); items[current].focus({ preventScroll: true }); }
}));

showProgress();
select(Math.max(0, items.findIndex((item) => !isRead(item))), false);
