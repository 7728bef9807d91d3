// Shows an OpenAPI document and sends requests to the admin API. Text is inserted as text, never as HTML.
"use strict";

const DOCUMENTS = {
  "#admin": { url: "/openapi.json", sends: true },
  // The inference API is on another port, to which the browser lets this page send nothing.
  "#inference": { url: "/docs/inference.json", sends: false },
};
const MAX_DEPTH = 8;

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function resolve(schema, spec) {
  if (!schema.$ref) return schema;
  return schema.$ref.slice(2).split("/").reduce((node, key) => node[key], spec);
}

function typeName(schema, spec) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  const choices = schema.anyOf || schema.oneOf;
  if (choices) return choices.map((choice) => typeName(choice, spec)).join(" | ");
  if (schema.type === "array") return `list of ${typeName(schema.items || {}, spec)}`;
  return [].concat(schema.type || "any").join(" | ");
}

const BOUNDS = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength",
  "minItems", "maxItems", "pattern", "default"];

function bounds(schema) {
  const parts = [schema, ...(schema.anyOf || [])];
  return parts.flatMap((part) => BOUNDS.filter((name) => part[name] !== undefined && part[name] !== null)
    .map((name) => `${name} ${JSON.stringify(part[name])}`)).join(", ");
}

// Objects that a value of the schema is or holds, to be shown below it.
function objectsIn(schema, spec) {
  const choices = [schema, ...(schema.anyOf || []), ...(schema.oneOf || [])];
  const parts = choices.flatMap((choice) => [choice, choice.items]).filter(Boolean);
  return parts.map((part) => resolve(part, spec)).filter((part) => part.properties);
}

function fields(schema, spec, seen = []) {
  const list = element("ul");
  if (seen.includes(schema) || seen.length > MAX_DEPTH) return list;
  for (const [name, field] of Object.entries(schema.properties || {})) {
    const required = (schema.required || []).includes(name) ? ", required" : "";
    const facts = [typeName(field, spec), bounds(field)].filter(Boolean).join(", ") + required;
    const item = element("li", {}, element("code", { textContent: name }), " ",
      element("span", { className: "type", textContent: facts }));
    if (field.description) item.append(` ${field.description}`);
    for (const inner of objectsIn(field, spec)) item.append(fields(inner, spec, [...seen, schema]));
    list.append(item);
  }
  return list;
}

function shape(schema, spec) {
  const shown = element("div", {}, element("span", { className: "type", textContent: typeName(schema, spec) }));
  for (const part of objectsIn(schema, spec)) {
    if (part.description) shown.append(`: ${part.description}`);
    shown.append(fields(part, spec));
  }
  return shown;
}

function example(schema, spec, depth = 0) {
  const plain = resolve(schema, spec);
  if (plain.default !== undefined) return plain.default;
  if (plain.const !== undefined) return plain.const;
  if (plain.enum) return plain.enum[0];
  if (plain.anyOf) return example(plain.anyOf[0], spec, depth);
  if (plain.type === "array") return plain.minItems ? [example(plain.items || {}, spec, depth + 1)] : [];
  if (plain.type === "integer" || plain.type === "number") return plain.minimum || 0;
  if (plain.type === "boolean") return false;
  if (plain.type !== "object" || depth > MAX_DEPTH) return plain.type === "string" ? "..." : null;
  const required = Object.entries(plain.properties || {}).filter(([name]) => (plain.required || []).includes(name));
  return Object.fromEntries(required.map(([name, field]) => [name, example(field, spec, depth + 1)]));
}

function bodySchema(operation) {
  return operation.requestBody && operation.requestBody.content["application/json"].schema;
}

function responses(operation, spec) {
  const list = element("div", {}, element("h3", { textContent: "Responses" }));
  for (const [status, response] of Object.entries(operation.responses)) {
    const details = element("details", {}, element("summary", { textContent: `${status} ${response.description}` }));
    for (const [media, content] of Object.entries(response.content || {})) {
      details.append(element("p", {}, element("code", { textContent: media })));
      for (const schema of [content.schema, content["x-event-schema"]].filter(Boolean)) {
        details.append(shape(schema, spec));
      }
    }
    list.append(details);
  }
  return list;
}

function sender(path, method, operation, spec) {
  const form = element("form", {}, element("h3", { textContent: "Send a request" }));
  const inputs = (operation.parameters || []).filter((parameter) => parameter.in === "path").map((parameter) => {
    const input = element("input", { name: parameter.name, required: true });
    form.append(element("label", {}, `${parameter.name} `, input));
    return input;
  });
  const schema = bodySchema(operation);
  const body = schema && element("textarea", { spellcheck: false, ariaLabel: "Request body" });
  if (body) {
    body.value = JSON.stringify(example(schema, spec), null, 2);
    form.append(body);
  }
  const result = element("pre", { hidden: true });
  form.append(element("button", { textContent: "Send" }), result);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const filled = inputs.reduce((url, input) => url.replace(`{${input.name}}`, encodeURIComponent(input.value)), path);
    const headers = { authorization: `Bearer ${document.getElementById("key").value}` };
    if (body) headers["content-type"] = "application/json";
    result.hidden = false;
    try {
      const response = await fetch(filled, { method: method.toUpperCase(), headers, body: body && body.value });
      result.textContent = `${response.status} ${response.statusText}\n${indented(await response.text())}`;
    } catch (error) {
      result.textContent = String(error);
    }
  });
  return form;
}

function indented(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function operationView(path, method, operation, spec, sends) {
  const details = element("details", {}, element("summary", {},
    element("span", { className: "method", textContent: method.toUpperCase() }),
    element("span", { className: "path", textContent: path }), operation.summary || ""));
  if (operation.description) details.append(element("p", { textContent: operation.description }));
  if (!operation.security) details.append(element("p", { textContent: "Needs no key." }));
  const schema = bodySchema(operation);
  if (schema) details.append(element("div", {}, element("h3", { textContent: "Request" }), shape(schema, spec)));
  details.append(responses(operation, spec));
  if (sends) details.append(sender(path, method, operation, spec));
  return details;
}

async function show() {
  const chosen = DOCUMENTS[location.hash] ? location.hash : "#admin";
  const main = document.getElementById("document");
  document.getElementById("key-field").hidden = !DOCUMENTS[chosen].sends;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === chosen) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  try {
    const spec = await (await fetch(DOCUMENTS[chosen].url)).json();
    const shown = [element("h1", { textContent: `${spec.info.title} ${spec.info.version}` }),
      element("p", { textContent: spec.info.description || "" })];
    for (const [path, methods] of Object.entries(spec.paths)) {
      for (const [method, operation] of Object.entries(methods)) {
        shown.push(operationView(path, method, operation, spec, DOCUMENTS[chosen].sends));
      }
    }
    main.replaceChildren(...shown);
  } catch (error) {
    main.replaceChildren(element("p", { className: "error", textContent: `The document cannot be shown: ${error}` }));
  }
}

window.addEventListener("hashchange", show);
show();
