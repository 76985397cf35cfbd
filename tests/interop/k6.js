// k6 over both wires: the same picture by every door, each answer checked. A threshold of k6 turns a failed check into
// its exit code. Our own contract is read from its file, the Open Inference Protocol's from the server's reflection.
import { check } from 'k6';
import encoding from 'k6/encoding';
import grpc from 'k6/net/grpc';
import http from 'k6/http';

export const options = { vus: 2, iterations: 20, thresholds: { checks: ['rate==1'] } };

const picture = open('../photographs/tabby_cat.jpg', 'b');
const image = encoding.b64encode(picture);
const ours = new grpc.Client();
ours.load([__ENV.PROTO, __ENV.GOOGLE_PROTO], 'phiserve/v1/classifier.proto');
const reflected = new grpc.Client();

export default function () {
  if (__ITER === 0) {
    ours.connect(__ENV.INTEROP_GRPC, { plaintext: true });
    reflected.connect(__ENV.INTEROP_GRPC, { plaintext: true, reflect: true });
  }
  const best = overHttp();
  overGrpc(best);
  overReflection();
  overStream(best);
}

function overHttp() {
  const answer = http.post(`${__ENV.INTEROP_HTTP}/classify?variant=lite0&budget_ms=5000`, picture);
  check(answer, {
    'HTTP 200': (reply) => reply.status === 200,
    'HTTP variant': (reply) => reply.json('variant.name') === 'lite0',
  });
  const raw = http.post(`${__ENV.INTEROP_HTTP}/v2/models/lite0/infer?budget_ms=5000`, picture, {
    headers: { 'Inference-Header-Content-Length': '0' },
    responseType: 'binary',
  });
  check(raw, {
    'HTTP raw body 200': (reply) => reply.status === 200,
    'HTTP raw body, 1000 probabilities': (reply) =>
      reply.body.byteLength - Number(reply.headers['Inference-Header-Content-Length']) === 4000,
  });
  return answer.json('predictions.0.label');
}

function overGrpc(best) {
  const answer = ours.invoke('phiserve.v1.Classifier/Classify', { image, variant: 'lite0', budgetMs: 5000 });
  check(answer, {
    'gRPC OK': (reply) => reply.status === grpc.StatusOK,
    'gRPC best class': (reply) => reply.message.predictions[0].label === best,
  });
  const menu = ours.invoke('phiserve.v1.Classifier/ListVariants', {});
  check(menu, { 'gRPC variants': (reply) => reply.message.variants.some((variant) => variant.name === 'lite0') });
  const refused = ours.invoke('phiserve.v1.Classifier/Classify', { image, variant: 'nothing' });
  check(refused, { 'gRPC unknown variant': (reply) => reply.status === grpc.StatusNotFound });
}

function overReflection() {
  const answer = reflected.invoke('inference.GRPCInferenceService/ModelInfer', {
    model_name: 'lite0',
    parameters: { budget_ms: { int64_param: 5000 } },
    inputs: [{ name: 'image', datatype: 'BYTES', shape: [1], contents: { bytes_contents: [image] } }],
  });
  check(answer, {
    'gRPC by reflection OK': (reply) => reply && reply.status === grpc.StatusOK,
    'gRPC by reflection, variant': (reply) => reply.message.parameters.variant.stringParam === 'lite0',
  });
}

function overStream(best) {
  const labels = [];
  const stream = new grpc.Stream(ours, 'phiserve.v1.Classifier/ClassifyStream');
  stream.on('data', (reply) => labels.push(`${reply.frameId} ${reply.answer.predictions[0].label}`));
  stream.on('end', () =>
    check(labels, {
      'gRPC stream, every frame in order': (found) => found.join() === `1 ${best},2 ${best},3 ${best}`,
    }),
  );
  for (let id = 1; id <= 3; id += 1) {
    stream.write({ frameId: id, request: { image, variant: 'lite0', budgetMs: 5000 } });
  }
  stream.end();
}
