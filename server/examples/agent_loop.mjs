// An agent with OpenAI's package for Node, which runs the loop of calls itself.
//
//     npm install openai
//     SERVAL_API_KEY=sk-... node server/examples/agent_loop.mjs [QUESTION]
//
// SERVAL_BASE_URL names the API of another server than http://127.0.0.1:8000/v1.
import OpenAI, { APIError } from "openai";

const QUESTION = "Compare the weather in Paris and Rome for the next 2 days.";
const FORECASTS = { Paris: ["sunny", 21], Tokyo: ["rainy", 17] };

function getWeather({ city }) {
  // The model can only react to errors that it is told.
  const result = city in FORECASTS
    ? { city, forecast: FORECASTS[city][0], temp_c: FORECASTS[city][1] }
    : { error: "unknown city" };
  console.log(`get_weather ${city} -> ${JSON.stringify(result)}`);
  return result;
}

const tools = [
  {
    type: "function",
    function: {
      name: "get_weather",
      description: "Get the weather forecast for a city.",
      parameters: {
        type: "object",
        properties: { city: { type: "string" }, days: { type: "integer" } },
        required: ["city", "days"],
        additionalProperties: false,
      },
      strict: true,
      parse: JSON.parse,
      function: getWeather,
    },
  },
];

const baseURL = process.env.SERVAL_BASE_URL ?? "http://127.0.0.1:8000/v1";
if (!process.env.SERVAL_API_KEY) {
  console.error("SERVAL_API_KEY is not set: export the key that `make serve` showed");
  process.exit(1);
}
try {
  const client = new OpenAI({ baseURL, apiKey: process.env.SERVAL_API_KEY });
  const model = (await client.models.list()).data[0].id;
  const messages = [{ role: "user", content: process.argv.slice(2).join(" ") || QUESTION }];
  const runner = client.chat.completions.runTools({ model, messages, tools, temperature: 0, max_tokens: 500 });
  console.log("answer:", await runner.finalContent());
} catch (error) {
  if (!(error instanceof APIError)) throw error;
  console.error(`${baseURL} did not answer: ${error.message}`);
  process.exit(1);
}
