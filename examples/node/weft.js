// A client of Weft made from its protos alone: connect() gives the stub, errorOf() what a failed call means.
"use strict";

const fs = require("fs");
const os = require("os");
const path = require("path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const PROTOS = path.join(__dirname, "..", "..", "protos");
const definition = loader.loadSync(["weft/inference/v1/inference.proto", "weft/errors/v1/errors.proto"], {
  includeDirs: [PROTOS],
  keepCase: true, // the names as they stand in the protos
  longs: String, // numbers of 64 bits do not fit into JavaScript's
  enums: String,
  arrays: true, // a list that is empty is there
  oneofs: true, // `message.content` is then "text" or "parts"
});
const { InferenceService } = grpc.loadPackageDefinition(definition).weft.inference.v1;
const WeftError = definition["weft.errors.v1.Error"];

const OPTIONS = {
  "grpc.max_receive_message_length": 64 * 1024 * 1024,
  "grpc.max_send_message_length": 64 * 1024 * 1024,
  "grpc.keepalive_time_ms": 300_000,
};

// The router and the key in WEFT_ROUTER and WEFT_KEY; by default those of `weft up`. With WEFT_CA, a file of
// authorities, the connection is by TLS; WEFT_CERTIFICATE and WEFT_CERTIFICATE_KEY show a certificate.
function connect(env = process.env) {
  const address = env.WEFT_ROUTER || "127.0.0.1:7000";
  if (!env.WEFT_CA) {
    if (!/^(127\.[\d.]+|localhost|\[::1\]):\d+$/.test(address)) {
      throw new Error(`A key must not go to ${address} in the clear: name the authorities' file in WEFT_CA.`);
    }
    return { stub: new InferenceService(address, grpc.credentials.createInsecure(), OPTIONS), key: keyOf(env) };
  }
  const read = (file) => (file ? fs.readFileSync(file) : null);
  const tls = grpc.credentials.createSsl(read(env.WEFT_CA), read(env.WEFT_CERTIFICATE_KEY), read(env.WEFT_CERTIFICATE));
  const name = env.WEFT_SERVER_NAME ? { "grpc.ssl_target_name_override": env.WEFT_SERVER_NAME } : {};
  const key = env.WEFT_CERTIFICATE ? env.WEFT_KEY : keyOf(env);
  return { stub: new InferenceService(address, tls, { ...OPTIONS, ...name }), key };
}

function keyOf(env) {
  const made = path.join(env.WEFT_HOME || path.join(os.homedir(), ".weft"), "dev.key");
  if (env.WEFT_KEY) return env.WEFT_KEY;
  if (!fs.existsSync(made)) throw new Error(`There is no key: set WEFT_KEY, or start a mesh, whose key is ${made}.`);
  return fs.readFileSync(made, "utf8").trim();
}

// What goes with each call: who calls, and by when it must have ended.
function call(key, seconds = 600) {
  const metadata = new grpc.Metadata();
  if (key) metadata.set("authorization", `Bearer ${key}`);
  return [metadata, { deadline: Date.now() + seconds * 1000 }];
}

// A failed call's error: { reason, message, param, retry_after, … }, or null where it is not Weft's.
// The same stands in `grpc-status-details-bin`, for clients that have google.rpc's protos.
function errorOf(failure) {
  const [bytes] = failure.metadata ? failure.metadata.get("weft-error-bin") : [];
  if (!bytes) return null;
  const error = WeftError.deserialize(bytes);
  return { ...error, reason: error.reason.replace(/^REASON_/, "") };
}

module.exports = { connect, call, errorOf };
