// Asks a model one thing: node chat.js [QUESTION]
"use strict";

const { connect, call, errorOf } = require("./weft");

const { stub, key } = connect();
const request = {
  model: process.env.WEFT_MODEL || "sim-model",
  messages: [{ role: "user", text: process.argv.slice(2).join(" ") || "What is a weft?" }],
  sampling: { max_tokens: 32 },
};

stub.Chat(request, ...call(key), (failure, answer) => {
  stub.close();
  if (failure) {
    const error = errorOf(failure);
    console.error(error ? `${error.reason}: ${error.message}` : failure.message);
    process.exitCode = 1;
    return;
  }
  const [choice] = answer.choices;
  console.log(choice.message.text);
  console.log(`(${choice.finish_reason}; ${answer.usage.completion_tokens} tokens)`);
});
