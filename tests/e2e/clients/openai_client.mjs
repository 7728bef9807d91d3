// OpenAI's package for Node: everything an agent does with it, told as one JSON object.
import { z } from "zod";

const name = process.argv[2] ?? "openai";
const { default: OpenAI, NotFoundError } = await import(name);
const { zodResponseFormat } = await import(`${name}/helpers/zod`);

const client = new OpenAI({
  baseURL: process.env.SERVAL_BASE_URL,
  apiKey: process.env.SERVAL_API_KEY,
  maxRetries: 0,
  timeout: 600_000,
});
const question = "What is Serval?";
const weather = "What is the weather in Paris for the next 3 days?";
const parameters = {
  type: "object",
  properties: { city: { type: "string" }, days: { type: "integer" } },
  required: ["city", "days"],
  additionalProperties: false,
};
const description = "Get the weather forecast for a city.";
const tools = [{ type: "function", function: { name: "get_weather", description, parameters, strict: true } }];
const asking = (content, options = {}) => ({
  model: "longcat-flash-lite-demo",
  temperature: 0,
  messages: [{ role: "user", content }],
  ...options,
});
const called = (call) => ({ name: call.function.name, arguments: JSON.parse(call.function.arguments) });
const chat = client.chat.completions;

const whole = await chat.create(asking(question));
const streamed = await chat.stream(asking(question)).finalContent();
const call = await chat.create(asking(weather, { tools }));
const streamedCall = await chat.stream(asking(weather, { tools })).finalChatCompletion();
const Capital = z.object({ capital: z.enum(["Paris", "Rome"]) });
const structured = await chat.parse(
  asking("Hello", { response_format: zodResponseFormat(Capital, "capital"), max_tokens: 300 }),
);
let error;
try {
  await chat.create({ ...asking(question), model: "none-such" });
} catch (failed) {
  if (!(failed instanceof NotFoundError)) throw failed;
  error = { status: failed.status, code: failed.code, param: failed.param };
}
const pieces = await chat.create(asking("Tell me a story.", { stream: true }));
for await (const _ of pieces) break;
pieces.controller.abort();

console.log(
  JSON.stringify({
    text: whole.choices[0].message.content,
    streamed,
    call: called(call.choices[0].message.tool_calls[0]),
    streamed_call: called(streamedCall.choices[0].message.tool_calls[0]),
    structured: structured.choices[0].message.parsed,
    error,
    after_abort: (await chat.create(asking(question, { max_tokens: 8 }))).choices[0].message.content,
  }),
);
