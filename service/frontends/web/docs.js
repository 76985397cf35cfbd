// A file of its own, so that the page's Content-Security-Policy can forbid inline scripts.
"use strict";

const reference = document.getElementById("reference");

SwaggerUIBundle({
  domNode: reference,
  url: new URL(reference.dataset.openapi, document.baseURI).href,
  deepLinking: true,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  // Swagger UI would otherwise send the description to an online validator.
  validatorUrl: null,
});
