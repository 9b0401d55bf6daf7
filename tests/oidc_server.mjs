// An OpenID provider on the loopback address: node oidc_server.mjs MODULE CONFIG
//
// CONFIG is JSON: port, audience, scopes, seconds (how long tokens last), jwks, clients, and
// interactive: whether people can log in, by whatever name. It prints "up" when it listens.
import { pathToFileURL } from 'node:url';

const [modulePath, text] = process.argv.slice(2);
const { Provider } = await import(pathToFileURL(modulePath));
const config = JSON.parse(text);

const resource = (audience) => ({
  scope: config.scopes.join(' '),
  audience,
  accessTokenFormat: 'jwt',
  accessTokenTTL: config.seconds,
  jwt: { sign: { alg: 'RS256' } },
});

const provider = new Provider(`http://127.0.0.1:${config.port}`, {
  clients: config.clients,
  scopes: config.scopes,
  jwks: config.jwks,
  features: {
    devInteractions: { enabled: Boolean(config.interactive) },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => config.audience,
      getResourceServerInfo: (_context, indicator) => resource(indicator),
    },
  },
});
provider.listen(config.port, '127.0.0.1', () => console.log('up'));
