#!/bin/sh
# Installs the database servers that the tests, benchmarks and the demo start for themselves, the C
# compiler that the race detector needs, and the browser that looks at the status page.
#
#   integration/setup.sh postgres mariadb gcc chromium
#
# What is there already is left alone, without looking at the network. On Debian and its relatives,
# what is missing is installed with apt-get, by root or with a sudo that asks for no password.
# Otherwise one line on standard error says what to install, and the exit code is 1. No service is
# started: the package of PostgreSQL makes its usual empty cluster, which nothing here uses.
set -eu

export DEBIAN_FRONTEND=noninteractive

policy=/usr/sbin/policy-rc.d # Debian's way to let an administrator forbid that packages start services
made_policy=

say() { echo "setup: $*"; }

die() {
	echo "setup: $*" >&2
	exit 1
}

have_postgres() {
	command -v initdb >/dev/null && return
	for initdb in /usr/lib/postgresql/*/bin/initdb; do
		[ -x "$initdb" ] && return
	done
	return 1
}

have_mariadb() {
	for name in mariadbd mysqld; do
		{ command -v $name >/dev/null || [ -x /usr/sbin/$name ]; } && break
		name=
	done
	[ -n "$name" ] && command -v my_print_defaults >/dev/null &&
		{ command -v mariadb-install-db || command -v mysql_install_db; } >/dev/null
}

have_gcc() { command -v gcc >/dev/null || command -v clang >/dev/null; }

# The names are those that the tests look for (integration/rotationhttp/browser_test.go).
have_chromium() { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null

# as_root runs a command as root, and fails at once when that is not allowed.
as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	else
		sudo -n env DEBIAN_FRONTEND=$DEBIAN_FRONTEND "$@"
	fi
}

can_install() {
	command -v apt-get >/dev/null || return 1
	[ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null
}

known_package() { apt-cache show --no-all-versions "$1" >/dev/null 2>&1; }

# packages_for prints what to install. MariaDB's core packages are its programs without a service.
packages_for() {
	case $1 in
	postgres) echo postgresql ;;
	gcc) echo gcc libc6-dev ;;
	chromium) echo chromium fonts-dejavu-core ;; # without a font a page is blank
	mariadb) if known_package mariadb-server-core; then echo mariadb-server-core mariadb-client-core; else echo mariadb-server; fi ;;
	esac
}

update_lists() {
	say "fetching the lists of packages (apt-get update)"
	as_root apt-get update -q
}

# forbid_services keeps the new packages from starting servers, unless there is a policy already.
forbid_services() {
	[ -e $policy ] && return
	made_policy=yes
	printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
	as_root chmod 755 $policy
}

allow_services() {
	[ -z "$made_policy" ] || as_root rm -f $policy
	made_policy=
}

apt_install() {
	# shellcheck disable=SC2086 # a list of names
	as_root apt-get install -q -y --no-install-recommends $packages
}

install_missing() {
	known_package postgresql || update_lists
	packages=
	for server in $1; do
		packages="$packages $(packages_for "$server")"
	done
	say "installing$packages (apt-get install)"
	trap allow_services EXIT
	trap 'exit 1' HUP INT TERM
	forbid_services
	if ! apt_install; then # old lists name packages that are gone from the mirror
		update_lists
		apt_install
	fi
	allow_services
}

[ $# -gt 0 ] || die "say what is needed: setup.sh postgres|mariadb|gcc|chromium …"
missing=
for server in "$@"; do
	case $server in
	postgres | mariadb | gcc | chromium) have_"$server" || missing="${missing:+$missing }$server" ;;
	*) die "cannot install '$server': postgres, mariadb, gcc and chromium are known" ;;
	esac
done
[ -n "$missing" ] || exit 0

say "not installed: $missing"
can_install || die "install these, or allow sudo without a password: $missing (on Debian: apt-get install postgresql mariadb-server gcc libc6-dev chromium)"
install_missing "$missing"
for server in $missing; do
	have_"$server" || die "installed, but the programs of $server are not where they should be"
done
say "done: $missing"
