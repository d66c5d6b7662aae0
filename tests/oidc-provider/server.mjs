// A real OpenID provider (npm oidc-provider) on loopback, for the tests of signing in.
//
// Who is at its keyboard, and what goes wrong with it, is told at /control. What it issues
// is its own, but for an ID token or a discovery document that a test puts in their place.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { exportJWK, generateKeyPair } from 'jose';
import Provider from 'oidc-provider';

const config = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const issuer = `https://localhost:${config.port}`;
const honest = {
  user: 'amina', name: 'amina', groups: ['engineers'], claims: {}, amr: ['pwd', 'otp', 'mfa'],
  acr: 'gold', seconds_ago: 0, refuses: '', id_token: '', discovery: {}, discovery_leads_to: '',
};
let world = { ...honest };
let redirects = [];
let backchannel = '';
let sends = false;
let told = [];
let keys = [];
let provider;

async function freshKeys() {
  const { privateKey } = await generateKeyPair('RS256', { extractable: true });
  const kid = `key-${Math.random().toString(36).slice(2)}`;
  keys = [{ ...await exportJWK(privateKey), kid, use: 'sig', alg: 'RS256' }];
}

async function granted(ctx) {
  const { client, session, provider: of } = ctx.oidc;
  const grant = new of.Grant({ clientId: client.clientId, accountId: session.accountId });
  grant.addOIDCScope(ctx.oidc.params.scope);
  await grant.save();
  return grant;
}

// The library lets no request go to loopback addresses; here that is where everybody is.
async function send(url, { dispatcher, ...options }) {
  told.push({ url: String(url), body: String(options.body ?? '') });
  return sends ? fetch(url, options) : new Response(null, { status: 200 });
}

// The library's own page asks a foreign host for its fonts.
function signOutPage(ctx, form) {
  ctx.body = `<!doctype html>${form}<button form="op.logoutForm" name="logout" value="yes">Yes`;
}

function build() {
  provider = new Provider(issuer, {
    jwks: { keys },
    cookies: { keys: [config.cookie_key] },
    clients: [{
      client_id: 'falaj', client_secret: config.client_secret, redirect_uris: redirects,
      response_types: ['code'], grant_types: ['authorization_code'], require_auth_time: true,
      post_logout_redirect_uris: redirects.map((one) => `${new URL(one).origin}/login`),
      ...(backchannel
        ? { backchannel_logout_uri: backchannel, backchannel_logout_session_required: true } : {}),
    }],
    claims: {
      openid: ['sub', 'amr', 'groups', 'preferred_username', 'uuid', 'userType', 'email'],
    },
    acrValues: ['gold', 'silver'],
    scopes: ['openid', 'urn:uae:digitalid:profile:general'],
    features: {
      devInteractions: { enabled: false },
      rpInitiatedLogout: { enabled: true, logoutSource: signOutPage },
      backchannelLogout: { enabled: true },
      claimsParameter: { enabled: true },
    },
    routes: config.routes,
    interactions: { url: (_ctx, interaction) => `/interaction/${interaction.uid}` },
    loadExistingGrant: granted,
    fetch: send,
    findAccount: (_ctx, id) => ({
      accountId: id,
      claims: () => ({
        sub: id, groups: world.groups, preferred_username: world.name, ...world.claims,
      }),
    }),
  });
  provider.use(async (ctx, next) => {
    await next();
    if (ctx.path === config.routes.token && ctx.body?.id_token && world.id_token) {
      ctx.body = { ...ctx.body, id_token: world.id_token };
    }
    if (ctx.path === '/.well-known/openid-configuration') {
      ctx.body = { ...ctx.body, ...world.discovery };
    }
  });
}

async function authenticated(request, response) {
  const result = world.refuses
    ? { error: world.refuses, error_description: 'refused by the test' }
    : {
      login: {
        accountId: world.user, amr: world.amr, acr: world.acr,
        ts: Math.floor(Date.now() / 1000) - world.seconds_ago,
      },
    };
  await provider.interactionDetails(request, response);
  await provider.interactionFinished(request, response, result, { mergeWithLastSubmission: false });
}

async function controlled(request, response) {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  const asked = pieces.length ? JSON.parse(Buffer.concat(pieces).toString()) : {};
  if (asked.honest) { world = { ...honest }; told = []; }
  if (asked.rotate) await freshKeys();
  if (asked.redirects) redirects = asked.redirects;
  if (asked.backchannel !== undefined) backchannel = asked.backchannel;
  if (asked.sends !== undefined) sends = asked.sends;
  Object.assign(world, asked.world ?? {});
  if (asked.rotate || asked.redirects || asked.backchannel !== undefined) build();
  response.setHeader('Content-Type', 'application/json');
  response.end(JSON.stringify({ keys, told }));
}

await freshKeys();
build();
const pem = readFileSync(config.certificate);
createServer({ key: pem, cert: pem }, (request, response) => {
  const path = request.url.split('?')[0];
  const failed = (error) => { response.statusCode = 500; response.end(String(error?.stack)); };
  if (path === '/control') {
    controlled(request, response).catch(failed);
  } else if (path.startsWith('/interaction/')) {
    authenticated(request, response).catch(failed);
  } else if (path === '/.well-known/openid-configuration' && world.discovery_leads_to) {
    response.writeHead(302, { Location: world.discovery_leads_to }).end();
  } else {
    provider.callback()(request, response);
  }
}).listen(config.port, '127.0.0.1');
