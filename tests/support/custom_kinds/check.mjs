// Checks manifests (JSON, a list, on stdin) of kinds that are no part of Kubernetes with the schemas their projects publish.
// Prints one line a mistake; exit code 1 if there is one.
import { readFileSync } from "node:fs";

const packages = {
  "keda.sh": "keda",
  "monitoring.coreos.com": "prometheus-operator",
  "external-secrets.io": "external-secrets",
  "gateway.networking.k8s.io": "gateway-api",
};
// What no package describes yet, checked as its predecessor, whose fields are the same.
const predecessors = { "external-secrets.io/v1": "external-secrets.io/v1beta1" };

let mistakes = 0;
for (const manifest of JSON.parse(readFileSync(0, "utf8"))) {
  manifest.apiVersion = predecessors[manifest.apiVersion] ?? manifest.apiVersion;
  const [group] = manifest.apiVersion.split("/");
  const models = await import(`@kubernetes-models/${packages[group]}/${manifest.apiVersion}`);
  try {
    new models[manifest.kind](manifest).validate();
  } catch (error) {
    mistakes += 1;
    const found = error.errors?.map((one) => `${one.instancePath} ${one.message}`) ?? [error.message];
    console.log(`${manifest.kind} ${manifest.metadata.name}: ${found.join("; ")}`);
  }
}
process.exitCode = mistakes ? 1 : 0;
