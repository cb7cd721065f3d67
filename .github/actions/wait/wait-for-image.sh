#!/bin/sh
# Waits until images are in all regions of a registry, or in those of REGIONS. Needs
# curl, and is set by its environment; README.md says how.
#
# Exit codes: 0 they are; 1 a region was not in time, or never will be; 2 undecided when
# the time was up; 3 the service was not reached, or refused the request.
set -u
LC_ALL=C
export LC_ALL

URL=${URL:-} KEY=${KEY:-} IMAGES=${IMAGES:-} REGIONS=${REGIONS:-} TIMEOUT=${TIMEOUT:-900}
OUTPUT=${OUTPUT:-${GITHUB_OUTPUT:-}}
started=$(date +%s)
status='' missing='' # of the image that is waited for
said='' said_at=0

elapsed() { echo $(($(date +%s) - started)); }

say() { echo "$(elapsed)s $*"; }

# note says what is new, and every 30 s what is not.
note() {
	if [ "$*" != "$said" ] || [ $(($(date +%s) - said_at)) -ge 30 ]; then
		said=$* said_at=$(date +%s)
		say "$*"
	fi
}

output() {
	[ -z "$OUTPUT" ] || echo "$1=$2" >>"$OUTPUT"
	[ "${TF_BUILD:-}" != True ] || echo "##vso[task.setvariable variable=$1;isOutput=true]$2"
}

# end writes the outputs. Its text is an error unless the exit code is 0.
end() {
	code=$1
	shift
	output status "$status"
	output missing "$missing"
	output duration "$(elapsed)"
	if [ "$code" = 0 ]; then
		say "$*"
	elif [ "${GITHUB_ACTIONS:-}" = true ]; then
		echo "::error title=wait for image::$*" >&2
	elif [ "${TF_BUILD:-}" = True ]; then
		echo "##vso[task.logissue type=error]$*" >&2
	else
		echo "wait-for-image: $*" >&2
	fi
	exit "$code"
}

wrong() {
	status=refused
	end 3 "$*"
}

# ask sets code, 000 without an answer, and body, without spaces, which no value that is
# looked for has. The key is on no command line, and in no file.
ask() {
	answer=$(printf 'header = "Authorization: Bearer %s"\n' "$quoted" |
		curl -q --silent --connect-timeout 10 --max-time 30 --write-out '\n%{http_code}' --config - "$1" 2>/dev/null)
	code=${answer##*"
"}
	body=$(printf '%s' "${answer%"
"*}" | tr -d ' \n\r\t')
}

has() {
	case $body in
	*"$1"*) return 0 ;;
	esac
	return 1
}

# absent sets missing to body's list of that name.
absent() { missing=$(printf '%s' "$body" | sed -n 's/.*"missing":\[\([^]]*\)\].*/\1/p' | tr -d '"'); }

# gone tells whether body, a status, is of an event after which the image is nowhere, or
# cannot be pulled.
gone() { has '"action":"delete"' || has '"action":"chart_delete"' || has '"action":"quarantine"'; }

# there tells whether body, a status, says yes, and sets missing. A 200 of somebody else
# says no.
there() {
	if [ -z "$REGIONS" ]; then
		absent
		has '"status":"replicated"' || has '"status":"recovered"'
		return
	fi
	missing=''
	for region in $REGIONS; do
		has "\"region\":\"$region\"" || missing=$missing${missing:+,}$region
	done
	[ -z "$missing" ]
}

# conclude ends the program if the answer is one that stays. It returns 0 if the image
# is there, and 1 to ask again.
conclude() {
	case $code in
	200)
		if there; then
			status=replicated
			return 0
		fi
		has '"status":"re' || wrong "$URL answers 200, but not as the service does"
		wrong "$image is in all regions that the service waits for, and these are not among them: $missing"
		;;
	409)
		has urn:allregions:problem:ambiguous && wrong "$image is in several registries: write LOGIN_SERVER/$image"
		status=gone
		gone && end 1 "$image: the newest event of it is no push"
		status=timedOut
		if there; then
			status=replicated
			return 0
		fi
		end 1 "$image is not in time in: $missing"
		;;
	503)
		if has urn:allregions:problem:undecided; then
			answered=yes status=collecting
			absent
			[ -n "$missing" ] || ! has '"missing":[]' || status=none
			if [ "$status" = none ]; then
				note "$image: no region has reported it yet"
				return 1
			fi
			if [ -n "$REGIONS" ]; then # who has it, is not in this answer
				ask "$URL/images/$query"
				if [ "$code" = 200 ] && ! gone && there; then
					status=replicated
					return 0
				fi
			fi
			note "$image: missing: $missing"
			return 1
		fi
		;;
	404) # also of an ingress that has no replica at the moment
		has '"title":"NotFound"' && wrong "$URL is not the address of the service: 404"
		;;
	401) wrong "the service refuses the key" ;;
	408 | 425 | 429) ;;
	3?? | 4??) wrong "$URL answers $code $(printf '%.200s' "$body")" ;;
	esac
	answered='' # what is there, does not answer as it should
	note "$image: $(if [ "$code" = 000 ]; then echo no answer; else echo "answer $code"; fi); asking again"
	return 1
}

# wait_for returns when the image is there, or ends the program.
wait_for() {
	image=$1 answered='' status=none missing='' registry=''
	name=${image%%@*} digest='' tag=''
	[ "$name" = "$image" ] || digest=${image#*@}
	case $name in # a login server
	*.azurecr.*/*) registry=${name%%/*} ;;
	esac
	case ${name%%/*} in
	*.* | *:* | localhost) [ "$name" = "${name#*/}" ] || name=${name#*/} ;;
	esac
	[ "$name" = "${name%%:*}" ] || tag=${name#*:} name=${name%%:*}
	case $name/$tag/$digest/$registry in
	*[!A-Za-z0-9._/:-]* | /* | *///"$registry") wrong "IMAGES: \"$image\" is neither repository@digest nor repository:tag" ;;
	esac
	query="$name?digest=$digest&tag=$tag${registry:+&registry=$registry}"
	longest=1 # of the first request: what is missing, is said at once
	while :; do
		left=$((TIMEOUT - $(elapsed)))
		[ "$left" -gt 0 ] || break
		[ "$left" -lt "$longest" ] || left=$longest
		longest=$most
		ask "$URL/images/$query&require=replicated&wait=${left}s"
		conclude && return
		sleep 1
	done
	[ -n "$answered" ] || status=unreachable
	case $status in
	unreachable) end 3 "$image: $URL does not answer" ;;
	none) end 2 "$image: no region has reported it within $TIMEOUT s" ;;
	*) end 2 "$image: undecided after $TIMEOUT s, missing: $missing" ;;
	esac
}

[ "${GITHUB_ACTIONS:-}" != true ] || [ -z "$KEY" ] || echo "::add-mask::$KEY"
[ "${TF_BUILD:-}" != True ] || [ -z "$KEY" ] || echo "##vso[task.setsecret]$KEY"
command -v curl >/dev/null || wrong "no curl on the PATH"
URL=${URL%/}
case $URL in
http://?* | https://?*) ;;
*) wrong "URL: not an address such as https://allregions.example.com" ;;
esac
case $URL in
*[!A-Za-z0-9.:/_~%-]*) wrong "URL: not the address of a server alone" ;;
esac
case $KEY in
'') wrong "KEY: not set" ;;
*"
"*) wrong "KEY: more than one line" ;;
esac
case $TIMEOUT in
'' | *[!0-9]* | 0* | ???????*) wrong "TIMEOUT: not a whole number of seconds" ;;
esac
REGIONS=$(printf '%s' "$REGIONS" | tr 'A-Z,\n\r\t' 'a-z    ')
# A region is seen as soon as somebody asks, an outcome at once.
most=10
case $REGIONS in
*[!\ ]*) most=2 ;;
*) REGIONS='' ;;
esac
case $REGIONS in
*[!a-z0-9\ ]*) wrong "REGIONS: not names such as westeurope, eastus" ;;
esac
quoted=$(printf '%s' "$KEY" | sed 's/[\\"]/\\&/g')
set -f
# shellcheck disable=SC2086 # several, by spaces
set -- $REGIONS
REGIONS=$*
# shellcheck disable=SC2086 # several, by spaces or lines
set -- $IMAGES
[ $# -gt 0 ] || wrong "IMAGES: not set"
for one in "$@"; do
	wait_for "$one"
	say "$one: ${REGIONS:-in all regions}"
done
end 0 "done: $#"
