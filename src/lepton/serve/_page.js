"use strict";
const model = JSON.parse(document.getElementById("model").textContent);
const files = new Map();
const known = new Map(model.columns.map((column) => [column.name, column]));
const fields = new Map();

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// -- what is asked
function control(column, id) {
  const example = Array.isArray(column.example) ? column.example.join(" ") : column.example;
  if (column.kind === "category" && column.choices.length <= 40) {
    const options = column.choices.map((choice) => element("option", { value: "=" + choice }, choice));
    const made = element("select", { id }, ...options, element("option", { value: "" }, "(missing)"));
    made.read = () => (made.value === "" ? null : made.value.slice(1));
    return made;
  }
  if (column.kind === "category") {
    const list = element("datalist", { id: id + "-list" }, ...column.choices.map((value) => element("option", { value })));
    document.body.append(list);
  }
  const long = ["text", "tokens", "words"].includes(column.kind);
  const made = long
    ? element("textarea", { id, placeholder: "missing" })
    : element("input", { id, placeholder: "missing", autocomplete: "off", list: column.kind === "category" ? id + "-list" : null,
                         inputmode: column.kind === "number" ? "decimal" : "text" });
  made.value = example ?? "";
  made.read = () => {
    const text = long ? made.value : made.value.trim();
    if (text === "") return null;
    return column.kind === "number" && Number.isFinite(Number(text)) ? Number(text) : text;
  };
  return made;
}

function dropzone(column, id) {
  const words = column.kind === "image" ? "Drop a picture here, or choose one" : "Drop a recording here, or choose one";
  const input = element("input", { id, type: "file", accept: column.accept });
  const shown = element("div", {}, words);
  const zone = element("label", { class: "drop", for: id }, input, shown);
  const take = (file) => {
    if (!file) return;
    files.set(column.name, file);
    const address = URL.createObjectURL(file);
    if (column.kind === "image") {
      const picture = element("img", { alt: "The chosen picture", src: address });
      picture.onload = () => { if (picture.naturalWidth < 200) picture.className = "small"; };
      shown.replaceChildren(picture, element("div", {}, file.name));
    } else {
      shown.replaceChildren(element("audio", { controls: true, src: address }), element("div", {}, file.name));
    }
    ask();
  };
  input.onchange = () => take(input.files[0]);
  zone.ondragover = (event) => { event.preventDefault(); zone.classList.add("over"); };
  zone.ondragleave = () => zone.classList.remove("over");
  zone.ondrop = (event) => { event.preventDefault(); zone.classList.remove("over"); take(event.dataTransfer.files[0]); };
  return zone;
}

const notes = { number: "number", date: "date", category: "", text: "text", tokens: "text", words: "words", image: "picture", audio: "recording" };

function build() {
  const place = document.getElementById("fields");
  model.columns.forEach((column, number) => {
    const id = "field-" + number;
    const file = column.accept !== null;
    const made = file ? dropzone(column, id) : control(column, id);
    const note = column.kind === "date" && column.date_format ? column.date_format : notes[column.kind];
    const title = element(file ? "div" : "label", file ? { class: "label" } : { for: id }, column.name, element("small", {}, note));
    place.append(element("div", { class: file || made.tagName === "TEXTAREA" ? "field wide" : "field" }, title, made));
    if (!file) fields.set(column.name, made);
  });
  if (model.tasks.length > 1) {
    const chosen = document.getElementById("tasks");
    chosen.append(element("div", { class: "label" }, "Tasks"));
    for (const task of model.tasks) {
      chosen.append(element("label", {}, element("input", { type: "checkbox", value: task.name, checked: true }), element("span", {}, task.name)));
    }
  }
}

function chosen() {
  if (model.tasks.length === 1) return [model.tasks[0].name];
  return [...document.querySelectorAll("#tasks input:checked")].map((box) => box.value);
}

function request() {
  const row = Object.fromEntries([...fields].map(([name, made]) => [name, made.read()]));
  const tasks = chosen();
  if (!model.columns.some((column) => column.accept !== null)) {
    return ["predict", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ rows: [row], tasks }) }];
  }
  const form = new FormData();
  for (const [name, file] of files) form.append(name, file);
  if (fields.size) form.append("row", JSON.stringify(row));
  for (const task of tasks) form.append("tasks", task);
  return ["predict/file", { method: "POST", body: form }];
}

// -- what is predicted
const share = (value) => (100 * value).toFixed(value >= 0.9995 ? 0 : 1) + " %";
const plain = (value) => (value === null ? "none" : Number(value.toPrecision(5)).toLocaleString("en", { maximumSignificantDigits: 5 }));

function bars(task, found, on) {
  const labels = task.labels.map((label) => [label, found[task.name + "_probability_" + label]]).sort((a, b) => b[1] - a[1]).slice(0, 10);
  const made = element("div", { class: "bars" });
  for (const [label, value] of labels) {
    const mark = on.includes(label) ? "on" : "";
    const bar = element("i", { class: mark });
    bar.style.width = 100 * value + "%";
    made.append(element("span", { class: "name " + mark, title: label }, label), element("span", { class: "track" }, bar), element("span", { class: "share" }, share(value)));
  }
  return made;
}

function mask(task, rows) {
  const made = element("canvas", { width: rows[0].length, height: rows.length, role: "img", "aria-label": "The class of each pixel" });
  const style = getComputedStyle(document.documentElement);
  const colour = (number) => style.getPropertyValue("--c" + (number === 0 ? 0 : 1 + (number - 1) % 6));
  const context = made.getContext("2d");
  rows.forEach((row, y) => row.forEach((number, x) => { context.fillStyle = colour(number); context.fillRect(x, y, 1, 1); }));
  const present = new Set(rows.flat());
  const legend = element("div", { class: "legend" });
  task.labels.forEach((label, number) => {
    if (!present.has(number)) return;
    const key = element("i");
    key.style.background = colour(number);
    legend.append(element("span", {}, key, label));
  });
  return [made, legend];
}

function tagged(task, tags) {
  const value = [...fields.values()][0].read() ?? "";
  const words = value.trim().split(/\s+/);
  return element("p", { class: "tags" }, ...tags.map((tag, place) => element("span", {}, words[place] ?? "", element("small", {}, tag ?? "not read"))));
}

function said(task, found) {
  const value = found[task.name];
  if (task.kind === "classification") return [element("div", { class: "said" }, value), bars(task, found, [value])];
  if (task.kind === "multi_label") return [element("div", { class: "said" }, value.join(", ") || "none"), bars(task, found, value)];
  if (task.kind === "segmentation") return mask(task, value);
  if (task.kind === "token_classification") return [tagged(task, value)];
  if (task.kind === "speech_recognition") {
    return [element("div", { class: "said text" }, value || "(nothing)"), element("small", {}, "probability " + share(found[task.name + "_probability"]))];
  }
  return task.predicted.map((name) =>
    element("div", { class: "said" }, plain(found[name]), task.predicted.length > 1 || name !== task.name ? element("small", {}, " " + name) : ""));
}

function show(found) {
  const place = document.getElementById("predictions");
  place.replaceChildren(...model.tasks.filter((task) => task.predicted.some((name) => name in found)).map((task) =>
    element("section", { class: "task", "data-task": task.name }, element("h3", {}, task.name), ...said(task, found))));
  document.getElementById("raw").textContent = JSON.stringify(found, null, 1);
  document.getElementById("answer").hidden = false;
}

// What stands there was said of an earlier row.
function stale(is) {
  document.getElementById("predictions").classList.toggle("stale", is);
  document.getElementById("answer").classList.toggle("stale", is);
}

async function ask() {
  const problem = document.getElementById("problem");
  const took = document.getElementById("took");
  const button = document.querySelector("button");
  problem.hidden = true;
  button.disabled = true;
  try {
    const [path, options] = request();
    const start = performance.now();
    const answer = await fetch(path, options);
    const content = await answer.json();
    took.textContent = "answered in " + (performance.now() - start).toFixed(0) + " ms";
    if (!answer.ok) throw new Error(content.detail);
    show(content.predictions[0]);
    stale(false);
  } catch (error) {
    stale(true);
    problem.textContent = error instanceof TypeError ? "The server cannot be reached." : error.message;
    problem.hidden = false;
  } finally {
    button.disabled = false;
  }
}

build();
document.querySelector("form").oninput = () => stale(true);
document.querySelector("form").onsubmit = (event) => { event.preventDefault(); ask(); };
if (!model.columns.some((column) => column.accept !== null)) ask();
