#!/bin/sh
# The entrypoint of the image of make-postgres-image.sh: makes the cluster on the first start, then becomes the server.
set -eu

[ "${1#-}" = "$1" ] || set -- postgres "$@"
[ "$1" = postgres ] || exec "$@"

if [ "$(id -u)" = 0 ]; then
  mkdir -p "$PGDATA" /var/run/postgresql
  chmod 700 "$PGDATA"
  chown -R postgres:postgres /var/lib/postgresql /var/run/postgresql
  # Postgres refuses to run as root.
  exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  user=${POSTGRES_USER:-postgres}
  database=${POSTGRES_DB:-$user}
  password=${POSTGRES_PASSWORD:-}
  [ -z "${POSTGRES_PASSWORD_FILE:-}" ] || password=$(cat "$POSTGRES_PASSWORD_FILE")
  [ -n "$password" ] || { echo 'Set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE.' >&2; exit 1; }

  passwords=$(mktemp)
  printf '%s\n' "$password" > "$passwords"
  initdb --username="$user" --pwfile="$passwords" --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8 --locale-provider=builtin --locale=C.UTF-8
  rm "$passwords"
  echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
  printf '%s\n' "listen_addresses = '*'" "unix_socket_directories = '/var/run/postgresql'" >> "$PGDATA/postgresql.conf"

  # Without TCP while it is being set up, so that nobody takes it for ready.
  pg_ctl --wait --silent --options="-c listen_addresses=''" start
  export PGUSER="$user" PGDATABASE=postgres
  # psql quotes variables only in what it reads, not in --command.
  [ "$database" = postgres ] || echo 'CREATE DATABASE :"database"' | psql --no-psqlrc --set=ON_ERROR_STOP=1 --set=database="$database"
  export PGDATABASE="$database"
  for file in /docker-entrypoint-initdb.d/*; do
    case $file in
      *.sh) sh "$file" ;;
      *.sql) psql --no-psqlrc --set=ON_ERROR_STOP=1 --file="$file" ;;
    esac
  done
  unset PGUSER PGDATABASE
  pg_ctl --wait --silent --mode=fast stop
fi

unset POSTGRES_PASSWORD
exec "$@"
