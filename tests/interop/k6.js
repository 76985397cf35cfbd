// k6 over both wires: the same picture a few times, each answer checked. A threshold of k6 turns a failed check into
// its exit code. The protocol's messages come from the server's reflection.
import { check } from 'k6';
import encoding from 'k6/encoding';
import grpc from 'k6/net/grpc';
import http from 'k6/http';

export const options = { vus: 2, iterations: 20, thresholds: { checks: ['rate==1'] } };

const picture = open('../photographs/tabby_cat.jpg', 'b');
const client = new grpc.Client();

export default function () {
  const raw = http.post(`${__ENV.INTEROP_HTTP}/v2/models/lite0/infer?budget_ms=5000`, picture, {
    headers: { 'Inference-Header-Content-Length': '0' },
    responseType: 'binary',
  });
  check(raw, {
    'HTTP 200': (answer) => answer.status === 200,
    'HTTP 1000 probabilities': (answer) =>
      answer.body.byteLength - Number(answer.headers['Inference-Header-Content-Length']) === 4000,
  });
  if (__ITER === 0) {
    client.connect(__ENV.INTEROP_GRPC, { plaintext: true, reflect: true });
  }
  const answer = client.invoke('inference.GRPCInferenceService/ModelInfer', {
    model_name: 'lite0',
    parameters: { budget_ms: { int64_param: 5000 } },
    inputs: [
      { name: 'image', datatype: 'BYTES', shape: [1], contents: { bytes_contents: [encoding.b64encode(picture)] } },
    ],
  });
  check(answer, {
    'gRPC OK': (reply) => reply && reply.status === grpc.StatusOK,
    'gRPC variant': (reply) => reply.message.parameters.variant.stringParam === 'lite0',
  });
}
