// The playground: holds the conversation, shows the streamed answer, its calls, its tokens and its timings.
// All texts become text nodes; nothing that a model or a person wrote is ever read as HTML.
"use strict";

const byId = (id) => document.getElementById(id);
const place = byId("playground");
const transcript = byId("transcript");
let messages = [];
let running = null;

function headers() {
  const key = byId("key").value.trim();
  return {
    "content-type": "application/json",
    "x-serval-console": place.dataset.token,
    ...(key ? { "x-serval-console-key": key } : {}),
  };
}

async function posted(url, body, signal) {
  const response = await fetch(url, { method: "POST", headers: headers(), body: JSON.stringify(body), signal });
  if (!response.ok) {
    const answer = await response.json().catch(() => null);
    throw new Error(answer?.error?.message ?? `The server answered ${response.status}.`);
  }
  return response;
}

function conversation() {
  const system = byId("system").value.trim();
  const tools = byId("tools").value.trim();
  return {
    model: place.dataset.model,
    messages: [...(system ? [{ role: "system", content: system }] : []), ...messages],
    ...(tools && tools !== "[]" ? { tools: JSON.parse(tools) } : {}),
  };
}

async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

function added(list, name, value) {
  const row = document.createElement("div");
  for (const [tag, text] of [["dt", name], ["dd", value]]) {
    row.appendChild(document.createElement(tag)).textContent = text;
  }
  list.append(row);
}

// The prompt's tokens, asked for before the answer: both are made from the same state.
async function showTokens(asked, shown, signal) {
  const { tokens } = await (await posted(place.dataset.tokenize, asked, signal)).json();
  const pieces = await (await posted(place.dataset.tokens, { tokens }, signal)).json();
  shown.querySelector("summary").textContent = `Tokens the model was shown (${pieces.length})`;
  const text = shown.querySelector(".tokens");
  for (const piece of pieces) {
    const span = document.createElement("span");
    span.textContent = piece.text;
    span.title = `token ${piece.id}`;
    if (piece.control) span.className = "control";
    text.append(span);
  }
}

function parsed(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // Not complete yet.
  }
}

// The call as it is streamed; its form gives the results.
function callView(calls) {
  const form = byId("call-template").content.firstElementChild.cloneNode(true);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    giveResults(calls);
  });
  calls.append(form);
  return form;
}

function giveResults(calls) {
  for (const form of calls.querySelectorAll(".call")) {
    messages.push({ role: "tool", tool_call_id: form.dataset.id, content: form.querySelector(".result").value });
    form.querySelector(".give").disabled = true;
  }
  answer();
}

function take(delta, view, message) {
  if (delta.content) {
    message.content = (message.content ?? "") + delta.content;
    view.querySelector(".content").textContent = message.content;
  }
  if (delta.reasoning_content) {
    const reasoning = view.querySelector(".reasoning");
    reasoning.hidden = false;
    reasoning.textContent += delta.reasoning_content;
  }
  for (const piece of delta.tool_calls ?? []) {
    message.tool_calls ??= [];
    let call = message.tool_calls[piece.index];
    const calls = view.querySelector(".calls");
    if (!call) {
      call = { id: piece.id, type: "function", function: { name: piece.function.name, arguments: "" } };
      message.tool_calls[piece.index] = call;
      const form = callView(calls);
      form.dataset.id = call.id;
      form.querySelector(".name").textContent = `Call of ${call.function.name}`;
    }
    call.function.arguments += piece.function?.arguments ?? "";
    calls.children[piece.index].querySelector(".arguments").textContent = parsed(call.function.arguments);
  }
}

async function answer() {
  byId("problem").textContent = "";
  const view = byId("answer-template").content.firstElementChild.cloneNode(true);
  running = new AbortController();
  byId("send").disabled = true;
  byId("stop").disabled = false;
  try {
    const asked = conversation();
    transcript.append(view);
    await showTokens(asked, view.querySelector(".shown"), running.signal);
    const options = {
      stream: true,
      stream_options: { include_usage: true },
      temperature: Number(byId("temperature").value),
      max_tokens: Number(byId("max-tokens").value),
    };
    const message = { role: "assistant", content: null };
    const began = performance.now();
    let first = null, usage = null, finish = null;
    for await (const event of eventsOf(await posted(place.dataset.chat, { ...asked, ...options }, running.signal))) {
      if (event.error) throw new Error(event.error.message);
      usage = event.usage ?? usage;
      for (const choice of event.choices ?? []) {
        const { content, reasoning_content: reasoning, tool_calls: calls } = choice.delta;
        if (content || reasoning || calls) first ??= performance.now();
        take(choice.delta, view, message);
        finish = choice.finish_reason ?? finish;
      }
    }
    messages.push(message);
    timings(view.querySelector(".timings"), { began, first, ended: performance.now(), usage, finish });
    for (const button of view.querySelectorAll(".give")) button.disabled = false;
    view.dataset.finished = finish ?? "";
  } catch (error) {
    if (!view.querySelector(".content").textContent && !view.querySelector(".call")) view.remove();
    byId("problem").textContent = error.name === "AbortError" ? "Stopped." : error.message;
  } finally {
    running = null;
    byId("send").disabled = false;
    byId("stop").disabled = true;
  }
}

function timings(list, { began, first, ended, usage, finish }) {
  added(list, "First token", first === null ? "-" : `${Math.round(first - began)} ms`);
  added(list, "Whole answer", `${Math.round(ended - began)} ms`);
  if (usage) {
    added(list, "Prompt", `${usage.prompt_tokens} tokens`);
    added(list, "of it in the cache", `${usage.prompt_tokens_details?.cached_tokens ?? 0} tokens`);
    added(list, "Answer", `${usage.completion_tokens} tokens`);
    if (first !== null && ended > first) {
      const rate = (usage.completion_tokens - 1) / ((ended - first) / 1000);
      added(list, "Speed", `${Math.max(0, rate).toFixed(0)} tokens/s`);
    }
  }
  added(list, "Ended by", finish ?? "-");
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const message = byId("message");
  if (!message.value.trim() || running) return;
  messages.push({ role: "user", content: message.value });
  const mine = document.createElement("p");
  mine.className = "content mine";
  mine.textContent = message.value;
  transcript.append(mine);
  message.value = "";
  answer();
});
byId("stop").addEventListener("click", () => running?.abort());
byId("clear").addEventListener("click", () => {
  running?.abort();
  messages = [];
  transcript.replaceChildren();
});
