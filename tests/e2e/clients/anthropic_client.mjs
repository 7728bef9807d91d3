// Anthropic's package for Node: everything an agent does with it, told as one JSON object.
import Anthropic, { NotFoundError } from "@anthropic-ai/sdk";

const client = new Anthropic({
  baseURL: process.env.SERVAL_BASE_URL.replace(/\/v1$/, ""),
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
const tools = [{ name: "get_weather", description, input_schema: parameters, strict: true }];
const asking = (content, options = {}) => ({
  model: "longcat-flash-lite-demo",
  max_tokens: 300,
  temperature: 0,
  messages: [{ role: "user", content }],
  ...options,
});
const called = (answer) => {
  const [call] = answer.content.filter((block) => block.type === "tool_use");
  return { name: call.name, arguments: call.input };
};
const schema = {
  type: "object",
  properties: { capital: { type: "string", enum: ["Paris", "Rome"] } },
  required: ["capital"],
  additionalProperties: false,
};

const whole = await client.messages.create(asking(question));
const streamed = await client.messages.stream(asking(question)).finalText();
const call = await client.messages.create(asking(weather, { tools }));
const streamedCall = await client.messages.stream(asking(weather, { tools })).finalMessage();
const format = { type: "json_schema", schema };
const structured = await client.messages.create(asking("Hello", { output_config: { format } }));
let error;
try {
  await client.messages.create({ ...asking(question), model: "none-such" });
} catch (failed) {
  if (!(failed instanceof NotFoundError)) throw failed;
  error = { status: failed.status, type: failed.error.error.type };
}
const pieces = await client.messages.create(asking("Tell me a story.", { stream: true }));
for await (const _ of pieces) break;
pieces.controller.abort();

console.log(
  JSON.stringify({
    text: whole.content[0].text,
    streamed,
    call: called(call),
    streamed_call: called(streamedCall),
    structured: JSON.parse(structured.content[0].text),
    error,
    after_abort: (await client.messages.create(asking(question, { max_tokens: 8 }))).content[0].text,
  }),
);
