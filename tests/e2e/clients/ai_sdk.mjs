// Vercel's AI SDK: everything an agent does with it, told as one JSON object.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, Output, generateText, jsonSchema, streamText, tool } from "ai";
import { z } from "zod";

const serval = createOpenAICompatible({
  name: "serval",
  baseURL: process.env.SERVAL_BASE_URL,
  apiKey: process.env.SERVAL_API_KEY,
  supportsStructuredOutputs: true,
});
const question = "What is Serval?";
const weather = "What is the weather in Paris for the next 3 days?";
const tools = {
  get_weather: tool({
    description: "Get the weather forecast for a city.",
    inputSchema: jsonSchema({
      type: "object",
      properties: { city: { type: "string" }, days: { type: "integer" } },
      required: ["city", "days"],
      additionalProperties: false,
    }),
  }),
};
const asking = (prompt, options = {}) => ({
  model: serval("longcat-flash-lite-demo"),
  temperature: 0,
  maxRetries: 0,
  prompt,
  ...options,
});
const called = (call) => ({ name: call.toolName, arguments: call.input });

const whole = await generateText(asking(question));
const streamed = await streamText(asking(question)).text;
const call = await generateText(asking(weather, { tools }));
const streamedCalls = await streamText(asking(weather, { tools })).toolCalls;
const Capital = z.object({ capital: z.enum(["Paris", "Rome"]) });
const structured = await generateText(
  asking("Hello", { output: Output.object({ schema: Capital }), maxOutputTokens: 300 }),
);
let error;
try {
  await generateText(asking(question, { model: serval("none-such") }));
} catch (failed) {
  if (!APICallError.isInstance(failed)) throw failed;
  const { code, param } = failed.data.error;
  error = { status: failed.statusCode, code, param };
}
const controller = new AbortController();
const story = streamText(asking("Tell me a story.", { abortSignal: controller.signal }));
for await (const _ of story.textStream) controller.abort();

console.log(
  JSON.stringify({
    text: whole.text,
    streamed,
    call: called(call.toolCalls[0]),
    streamed_call: called(streamedCalls[0]),
    structured: structured.output,
    error,
    after_abort: (await generateText(asking(question, { maxOutputTokens: 8 }))).text,
  }),
);
