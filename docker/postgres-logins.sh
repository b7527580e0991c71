#!/bin/sh
# Run once by the Postgres image when it makes its cluster: keyledger's database and its two logins, neither a superuser.
# keyledger_owner owns the database and migrates; keyledger_app serves, with the rights of keyledger_server alone.
set -eu

psql --no-psqlrc --set=ON_ERROR_STOP=1 --username="${POSTGRES_USER:-postgres}" --dbname=postgres \
  --set=owner_password="$KEYLEDGER_OWNER_PASSWORD" --set=app_password="$KEYLEDGER_APP_PASSWORD" <<'SQL'
CREATE ROLE keyledger_server NOLOGIN;
CREATE ROLE keyledger_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE keyledger_app LOGIN PASSWORD :'app_password';
GRANT keyledger_server TO keyledger_owner, keyledger_app;
CREATE DATABASE keyledger OWNER keyledger_owner;
REVOKE ALL ON DATABASE keyledger FROM PUBLIC;
GRANT CONNECT ON DATABASE keyledger TO keyledger_server;
SQL
