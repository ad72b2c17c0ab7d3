"use strict";
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// References are replaced by what they stand for, a few levels deep, so that a schema can be read in one piece.
function resolved(schema, all, depth = 6) {
  if (Array.isArray(schema)) return schema.map((part) => resolved(part, all, depth));
  if (schema === null || typeof schema !== "object") return schema;
  if (schema.$ref) return depth ? resolved(all[schema.$ref.split("/").pop()], all, depth - 1) : schema.$ref;
  return Object.fromEntries(Object.entries(schema).map(([name, part]) => [name, resolved(part, all, depth)]));
}

function bodyOf(about, all) {
  return Object.entries(about.content ?? {}).map(([kind, content]) =>
    element("details", {}, element("summary", {}, kind), element("pre", {}, JSON.stringify(resolved(content.schema, all), null, 1))));
}

function section(path, method, about, all) {
  const made = element("section", { class: "path" },
    element("h2", {}, element("b", {}, method.toUpperCase()), path),
    element("p", {}, [about.summary + ".", about.description].filter(Boolean).join(" ")));
  if (about.requestBody) made.append(element("div", { class: "label" }, "Takes"), ...bodyOf(about.requestBody, all));
  const rows = Object.entries(about.responses).map(([status, answer]) =>
    element("tr", {}, element("td", {}, status), element("td", {}, answer.description, ...(status === "200" ? bodyOf(answer, all) : []))));
  made.append(element("table", {}, element("tbody", {}, ...rows)));
  return made;
}

fetch("openapi.json").then((answer) => answer.json()).then((found) => {
  const all = found.components.schemas;
  const parts = Object.entries(found.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, about]) => section(path, method, about, all)));
  document.getElementById("paths").append(...parts);
});
