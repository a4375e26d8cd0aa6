// Stream an answer from a coordinator. The client is made from the .proto files as they are; nothing is generated.
//
//   npm ci && node generate.mjs --address 127.0.0.1:50050 "What is the capital of France?"
//
// The text goes to stdout as it is committed, what happened goes to stderr. Ctrl-C cancels the request on the server.
import { parseArgs } from "node:util";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    address: { type: "string", default: "127.0.0.1:50050" },
    "max-new-tokens": { type: "string", default: "128" },
    temperature: { type: "string", default: "0" },
    seed: { type: "string" },
    raw: { type: "boolean", default: false }, // the prompt as it stands, without the chat template
    deadline: { type: "string", default: "120" }, // seconds
  },
});
if (positionals.length !== 1) {
  console.error('usage: node generate.mjs [--address HOST:PORT] [--max-new-tokens N] [--temperature T] [--seed N] [--raw] "PROMPT"');
  process.exit(2);
}

const protos = fileURLToPath(new URL("../../protos", import.meta.url));
const definition = loader.loadSync("minedraft/v1/generation.proto", {
  includeDirs: [protos],
  keepCase: true, // the names of the .proto files
  longs: String, // uint64 is larger than a JavaScript number is exact
  enums: String,
  defaults: true, // proto3: a field that was not sent is empty, not undefined
  oneofs: true,
});
const { GenerationService } = grpc.loadPackageDefinition(definition).minedraft.v1;
const client = new GenerationService(values.address, grpc.credentials.createInsecure());

const [prompt] = positionals;
const call = client.Generate(
  {
    ...(values.raw ? { text: prompt } : { chat: { messages: [{ role: "user", content: prompt }] } }),
    sampling: {
      temperature: Number(values.temperature),
      max_new_tokens: Number(values["max-new-tokens"]),
      ...(values.seed === undefined ? {} : { seed: values.seed }),
    },
  },
  { deadline: Date.now() + 1000 * Number(values.deadline) },
);
process.once("SIGINT", () => call.cancel());

call.on("data", (piece) => {
  process.stdout.write(piece.text);
  if (!piece.usage) return;
  const { rounds, emitted_tokens, draft_tokens, accepted_tokens } = piece.speculation;
  const length = Number(emitted_tokens) / Math.max(1, Number(rounds));
  console.error(
    `\n${piece.usage.completion_tokens} tokens, ${piece.finish_reason}; ` +
      `acceptance length ${length.toFixed(2)}, ${accepted_tokens} of ${draft_tokens} drafts kept`,
  );
});
call.on("error", (error) => {
  console.error(`${grpc.status[error.code]}: ${error.details}`);
  process.exitCode = 1;
});
call.on("end", () => client.close());
