# keyledger's server. It runs the TypeScript as it stands (Node 24 strips the types), so there is no build step and a stack trace names real lines.
#
#   docker build -t keyledger .
#   docker run --read-only --env-file keyledger.env -p 127.0.0.1:4000:4000 keyledger
#
# The embedded Postgres is left out: a container's own file system is no place for a log, so DATABASE_URL is required here.
# See compose.yml for the server with a Postgres beside it.
ARG NODE_IMAGE=node:24-slim

FROM ${NODE_IMAGE} AS dependencies
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
# `optional` are the embedded Postgres' binaries; `node` is a devDependency, so the base image's own is the only one.
RUN npm ci --omit=dev --omit=optional && npm cache clean --force

FROM ${NODE_IMAGE}
LABEL org.opencontainers.image.title="keyledger" org.opencontainers.image.licenses="MIT"
WORKDIR /app
# Owned by root and not writable by the server; nothing is written below /app.
COPY --from=dependencies /app/node_modules node_modules
COPY package.json LICENSE ./
COPY migrations migrations
COPY src src
ENV NODE_ENV=production HOST=0.0.0.0 PORT=4000
# By number, so that an orchestrator can see that it isn't root. The official image calls it `node`.
USER 1000:1000
EXPOSE 4000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.PORT}/livez`).then((answer) => process.exit(answer.ok ? 0 : 1), () => process.exit(1))"]
# A secret mounted as keyledger.env (NAME=value lines) is read like the environment, which wins, and shows in no `docker inspect`.
CMD ["node", "--max-semi-space-size=64", "--v8-pool-size=2", "--heap-growing-percent=100", "--no-allocation-site-pretenuring", "--env-file-if-exists=/run/secrets/keyledger.env", "src/main.ts"]
