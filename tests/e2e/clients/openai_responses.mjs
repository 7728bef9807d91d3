// OpenAI's package for Node on the Responses API: everything an agent does with it, told as one JSON object.
import { z } from "zod";

const name = process.argv[2] ?? "openai-newest";
const { default: OpenAI, NotFoundError } = await import(name);
const { zodTextFormat } = await import(`${name}/helpers/zod`);

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
const tools = [{ type: "function", name: "get_weather", description, parameters, strict: true }];
const asking = (input, options = {}) => ({
  model: "longcat-flash-lite-demo",
  temperature: 0,
  input,
  ...options,
});
const called = (answer) => {
  const [call] = answer.output.filter((item) => item.type === "function_call");
  return { name: call.name, arguments: JSON.parse(call.arguments) };
};

const whole = await client.responses.create(asking(question));
const stream = client.responses.stream(asking(question));
let deltas = "";
stream.on("response.output_text.delta", (event) => (deltas += event.delta));
const streamed = await stream.finalResponse();
if (deltas !== streamed.output_text) throw new Error("the deltas are not the answer");
const call = await client.responses.create(asking(weather, { tools }));
const streamedCall = await client.responses.stream(asking(weather, { tools })).finalResponse();
const Capital = z.object({ capital: z.enum(["Paris", "Rome"]) });
const structured = await client.responses.parse(
  asking("Hello", { text: { format: zodTextFormat(Capital, "capital") }, max_output_tokens: 300 }),
);
let error;
try {
  await client.responses.create({ ...asking(question), model: "none-such" });
} catch (failed) {
  if (!(failed instanceof NotFoundError)) throw failed;
  error = { status: failed.status, code: failed.code, param: failed.param };
}
const events = await client.responses.create(asking("Tell me a story.", { stream: true }));
for await (const event of events) if (event.type === "response.output_text.delta") break;
events.controller.abort();

console.log(
  JSON.stringify({
    text: whole.output_text,
    streamed: streamed.output_text,
    call: called(call),
    streamed_call: called(streamedCall),
    structured: structured.output_parsed,
    error,
    after_abort: (await client.responses.create(asking(question, { max_output_tokens: 8 }))).output_text,
  }),
);
