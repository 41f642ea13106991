// Shows an answer as it comes: node streaming.js [QUESTION]
"use strict";

const { connect, call, errorOf } = require("./weft");

async function main() {
  const { stub, key } = connect();
  const chat = {
    model: process.env.WEFT_MODEL || "sim-model",
    messages: [{ role: "user", text: process.argv.slice(2).join(" ") || "Tell of looms." }],
    sampling: { max_tokens: 32 },
  };
  const stream = stub.StreamChat({ chat }, ...call(key));
  process.once("SIGINT", () => stream.cancel()); // the model stops too
  let end = null;
  try {
    for await (const piece of stream) {
      if (piece.progress) console.error(`[${piece.progress}]`);
      for (const delta of piece.deltas) process.stdout.write(delta.content || "");
      end = piece.end || end;
    }
    if (!end) throw new Error("The stream ended before the answer did: what came is not all of it.");
    console.log(`\n(${end.choices[0].finish_reason}; ${end.usage.completion_tokens} tokens)`);
  } catch (failure) {
    const error = errorOf(failure);
    console.error(error ? `${error.reason}: ${error.message}` : failure.message);
    process.exitCode = 1;
  } finally {
    stub.close();
  }
}

main();
