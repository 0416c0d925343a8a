#!/usr/bin/env bash
# Keeps this student's sandbox for longer. Copy it as it is; see --help.
set -euo pipefail
ME=extend-sandbox

usage() {
  cat <<'END'
extend-sandbox.sh [SECONDS]: keeps the sandbox that setup-sandbox.sh got for at least so many seconds from now [3600].
Needs bash and curl. It never ends earlier for that, and running it again adds nothing up. The broker says how long a
sandbox can be kept at the most.

Which sandbox: SANDBOX_ID, SANDBOX_GENERATION and SANDBOX_HOLDER of the file that setup-sandbox.sh wrote; where there
is none, those of the environment; where they are not set, those of Instruqt (`agent variable get`). The holder is
else, as in the setup, _SANDBOX_ID or INSTRUQT_PARTICIPANT_ID.

Set by the track (as secrets or variables):
  BROKER_URL             the broker's address, https://...                              required
  BROKER_API_TOKEN       the broker's token for tracks; it is never printed             required
  SANDBOX_ENV_FILE       the file; SANDBOX_EXPIRES_AT in it is changed                  [~/.sandbox-broker.env]

How long it tries:
  BROKER_TOTAL_SEC             all in all, in seconds                                   [300]
  BROKER_ATTEMPTS              answers of 429 or 5xx, and none at all, until it gives up  [10]
  BROKER_CONNECT_TIMEOUT_SEC   of one request                                           [5]
  BROKER_REQUEST_TIMEOUT_SEC   of one request                                           [30]
  BROKER_BACKOFF_MS            the first wait where the broker names none; it doubles   [1000]
  BROKER_BACKOFF_CAP_MS        the longest such wait                                    [20000]
  BROKER_ALLOW_HTTP            1: send the token over plain http to another machine     [no]

Examples:
  extend-sandbox.sh           for an hour from now
  extend-sandbox.sh 5400      for an hour and a half

Ends with 0 (it is kept for so long), 1 (the broker refused: beyond its limit, or the allocation is over), 64 (unknown
argument), 75 (gave up; running it again may help), 78 (a setting is missing or wrong). On failure standard error has
one line that says why.
END
}

# --- the same in setup-sandbox.sh, extend-sandbox.sh and cleanup-sandbox.sh: each is one file that can be copied ---
EXIT_REFUSED=1 EXIT_USAGE=64 EXIT_GAVE_UP=75 EXIT_CONFIG=78
ID='^[A-Za-z0-9._:-]{1,128}$'
LC_ALL=C # bytes are bytes, whatever the host's locale
umask 077
SECONDS=0
BODY='' # of a request; JSON where there is one

say() { printf '%s: %s\n' "$ME" "$*"; }

die() { # EXIT_CODE MESSAGE
  printf '%s: %s\n' "$ME" "$2" >&2
  exit "$1"
}

number() { # NAME DEFAULT LOWEST: the variable, or its default, as a number
  local given=${!1:-$2}
  if [[ ! $given =~ ^[0-9]{1,6}$ ]] || ((10#$given < $3)); then
    die "$EXIT_CONFIG" "$1 must be a whole number from $3 to 999999, not '$given'"
  fi
  printf -v "$1" '%d' "$((10#$given))"
}

must_be_id() { # NAME VALUE
  [[ $2 =~ $ID ]] ||
    die "$EXIT_CONFIG" "$1 may hold 1 to 128 of the characters A-Z a-z 0-9 . _ : -, not '${2//[[:cntrl:]]/ }'"
}

read_settings() {
  number BROKER_ATTEMPTS 10 1
  number BROKER_TOTAL_SEC 300 1
  number BROKER_EMPTY_ATTEMPTS 6 1
  number BROKER_EMPTY_SEC 120 0
  number BROKER_CONNECT_TIMEOUT_SEC 5 1
  number BROKER_REQUEST_TIMEOUT_SEC 30 1
  number BROKER_BACKOFF_MS 1000 1
  number BROKER_BACKOFF_CAP_MS 20000 1
  BROKER_URL=${BROKER_URL:-}
  while [[ $BROKER_URL == */ ]]; do BROKER_URL=${BROKER_URL%/}; done
  [[ $BROKER_URL =~ ^https?://[^[:space:]/@][^[:space:]@]*$ ]] ||
    die "$EXIT_CONFIG" "BROKER_URL must be the broker's address, such as https://broker.example.com"
  local safe='^(https://|http://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?(/|$))'
  [[ $BROKER_URL =~ $safe || ${BROKER_ALLOW_HTTP:-} == 1 ]] ||
    die "$EXIT_CONFIG" "BROKER_URL is plain http, which shows the token to the network: use https"
  [[ -n ${BROKER_API_TOKEN:+set} ]] || die "$EXIT_CONFIG" "BROKER_API_TOKEN is not set: make it a secret of the track"
  command -v curl >/dev/null || die "$EXIT_CONFIG" "curl is not installed on this host"
  JQ=$(command -v jq || true)
  CALLS=0 RUN_ID=$ME-$(date +%s)-$RANDOM$RANDOM
  WORK=$(mktemp -d) || die "$EXIT_CONFIG" "no temporary directory can be made"
  trap 'rm -rf "$WORK"' EXIT
}

authorization() ( # for curl's standard input: in its arguments `ps` would show the token, and here `bash -x` would
  { set +x; } 2>/dev/null
  token=$(printf '%s' "$BROKER_API_TOKEN" | tr -d '[:space:]' | sed 's/[\\"]/\\&/g')
  printf 'header = "Authorization: Bearer %s"\n' "$token"
)

unescape() { # JSON's escapes, but for characters beyond U+FFFF, which the broker sends as they are
  local rest=$1 out='' code char
  while [[ $rest == *\\* ]]; do
    out+=${rest%%\\*}
    rest=${rest#*\\}
    case $rest in
      n*) out+=$'\n' ;;
      t*) out+=$'\t' ;;
      r*) out+=$'\r' ;;
      b*) out+=$'\b' ;;
      f*) out+=$'\f' ;;
      u[0-9a-fA-F][0-9a-fA-F][0-9a-fA-F][0-9a-fA-F]*)
        code=$((16#${rest:1:4}))
        if ((code < 0x80)); then
          printf -v char '\\x%02x' "$code"
        elif ((code < 0x800)); then
          printf -v char '\\x%02x\\x%02x' $((0xC0 | code >> 6)) $((0x80 | code & 0x3F))
        else
          printf -v char '\\x%02x\\x%02x\\x%02x' \
            $((0xE0 | code >> 12)) $((0x80 | code >> 6 & 0x3F)) $((0x80 | code & 0x3F))
        fi
        printf -v char '%b' "$char"
        out+=$char
        rest=${rest:4}
        ;;
      *) out+=${rest:0:1} ;;
    esac
    rest=${rest:1}
  done
  printf '%s' "$out$rest"
}

field() { # NAME: the answer's value of that name, or its error's; nothing where there is none
  # shellcheck disable=SC2016  # jq's own variable
  local value pattern wanted='first((., .error?) | objects | .[$name] | strings, numbers)'
  if [[ -n $JQ ]] && value=$(jq -r --arg name "$1" "$wanted" "$WORK/body" 2>/dev/null); then
    printf '%s' "$value"
    return
  fi
  pattern="\"$1\"[[:space:]]*:[[:space:]]*(\"(([^\"\\]|\\\\.)*)\"|-?[0-9]+)"
  if [[ $(head -c 65536 "$WORK/body" | tr -d '\000') =~ $pattern ]]; then
    if [[ ${BASH_REMATCH[1]} == \"* ]]; then unescape "${BASH_REMATCH[2]}"; else printf '%s' "${BASH_REMATCH[1]}"; fi
  fi
}

call() { # PATH HEADER...: one POST of BODY; sets STATUS (000: no answer), RETRY_AFTER, REQUEST_ID and CURL_EXIT
  local left=$((BROKER_TOTAL_SEC - SECONDS)) limit=$BROKER_REQUEST_TIMEOUT_SEC line header headers=()
  ((left >= limit)) || limit=$((left > 1 ? left : 1))
  for header in "${@:2}"; do headers+=(--header "$header"); done
  CALLS=$((CALLS + 1))
  REQUEST_ID=$RUN_ID.$CALLS RETRY_AFTER='' CURL_EXIT=0
  : >"$WORK/body"
  : >"$WORK/headers"
  STATUS=$(authorization | curl --disable --config - --silent --show-error --globoff --proto '=http,https' \
    --connect-timeout "$BROKER_CONNECT_TIMEOUT_SEC" --max-time "$limit" \
    --data "$BODY" --header "Content-Type:${BODY:+ application/json}" \
    --header "X-Request-ID: $REQUEST_ID" "${headers[@]}" \
    --output "$WORK/body" --dump-header "$WORK/headers" --write-out '%{http_code}' \
    "$BROKER_URL$1" 2>"$WORK/error") || CURL_EXIT=$?
  ((CURL_EXIT == 0)) || STATUS=000 # also where an answer began and broke off
  while IFS= read -r line || [[ -n $line ]]; do
    line=${line%$'\r'}
    case ${line,,} in
      http/*) RETRY_AFTER='' ;; # a further answer, after a proxy's
      retry-after:*)
        [[ ! ${line#*:} =~ ^[[:space:]]*([0-9]+)[[:space:]]*$ ]] || RETRY_AFTER=${BASH_REMATCH[1]}
        ((${#RETRY_AFTER} <= 6)) || RETRY_AFTER=999999
        ;;
      x-request-id:*) [[ ! ${line#*:} =~ ^[[:space:]]*([A-Za-z0-9._:-]+)$ ]] || REQUEST_ID=${BASH_REMATCH[1]} ;;
    esac
  done <"$WORK/headers"
}

judge() { # sets VERDICT: ok, again (passing trouble), empty (no sandbox now) or refused; CODE; and WHY, for a person
  local message
  VERDICT=refused CODE=NO_ANSWER
  if [[ $STATUS == 000 ]]; then
    case $CURL_EXIT in
      5 | 6 | 7 | 16 | 18 | 28 | 35 | 52 | 55 | 56 | 92 | 95 | 96) VERDICT=again ;; # network, not settings
    esac
    message=$(head -n 1 "$WORK/error")
    WHY="$CODE: ${message:-curl ended with $CURL_EXIT} (from $BROKER_URL, request id $REQUEST_ID)"
    return
  fi
  if [[ $STATUS == 2?? ]] && readable; then
    VERDICT=ok CODE='' WHY=''
    return
  fi
  CODE=$(field code) message=$(field message)
  case $STATUS in
    2?? | 408 | 429 | 5??) VERDICT=again ;;
    409) [[ $CODE != NO_SANDBOXES_AVAILABLE ]] || VERDICT=empty ;;
  esac
  [[ $CODE =~ $ID ]] || CODE=UNREADABLE_ANSWER
  [[ -n $message ]] ||
    message="not the broker's JSON, is BROKER_URL right? It begins: $(head -c 80 "$WORK/body" | tr -c '\40-\176' ' ')"
  message=${message//[[:cntrl:]]/ }
  WHY="$CODE: ${message:0:300} (HTTP $STATUS, request id $REQUEST_ID)"
}

pause() { # MILLISECONDS
  sleep "$(printf '%d.%03d' $(($1 / 1000)) $(($1 % 1000)))"
}

post() { # PATH HEADER...: calls until the answer is final, or dies where a limit is reached
  local failures=0 empties=0 empty_at=0 count most wait_ms wait_s left
  while :; do
    call "$@"
    judge
    left=$((BROKER_TOTAL_SEC - SECONDS))
    case $VERDICT in
      again) failures=$((failures + 1)) count=$failures most=$BROKER_ATTEMPTS ;;
      empty)
        ((empties > 0)) || empty_at=$SECONDS
        empties=$((empties + 1)) count=$empties most=$BROKER_EMPTY_ATTEMPTS
        ((left <= BROKER_EMPTY_SEC + empty_at - SECONDS)) || left=$((BROKER_EMPTY_SEC + empty_at - SECONDS))
        ;;
      *) return ;;
    esac
    wait_ms=$((BROKER_BACKOFF_MS << (count > 16 ? 16 : count - 1)))
    ((wait_ms <= BROKER_BACKOFF_CAP_MS)) || wait_ms=$BROKER_BACKOFF_CAP_MS
    wait_ms=$((wait_ms / 2 + wait_ms * RANDOM / 65536)) # two hundred students must not come back as one
    [[ -z $RETRY_AFTER ]] || wait_ms=$((RETRY_AFTER * 1000 + BROKER_BACKOFF_MS * RANDOM / 32768))
    wait_s=$(((wait_ms + 999) / 1000))
    ((count < most)) || die "$EXIT_GAVE_UP" "$WHY; gave up after $CALLS tries in $SECONDS s"
    ((wait_s < left)) ||
      die "$EXIT_GAVE_UP" "$WHY; gave up after $CALLS tries in $SECONDS s: no time is left to wait $wait_s s more"
    say "$WHY; trying again in $wait_s s"
    pause "$wait_ms"
  done
}

instruqt() { # ARGUMENT...: Instruqt's own command, with a deadline where the host can set one
  if command -v timeout >/dev/null; then timeout 10 agent "$@"; else agent "$@"; fi
}
# --- end of what is the same ----------------------------------------------------------------------------------

# --- the same in extend-sandbox.sh and cleanup-sandbox.sh -------------------------------------------------------
noted() { # NAME: its value in the file. The file is read, not sourced: a student may have changed it
  local line value=''
  if [[ -f $SANDBOX_ENV_FILE && -r $SANDBOX_ENV_FILE ]]; then
    while IFS= read -r line || [[ -n $line ]]; do
      [[ ! $line =~ ^$1=\'([A-Za-z0-9._:-]{1,128})\'$ ]] || value=${BASH_REMATCH[1]}
    done <"$SANDBOX_ENV_FILE"
  fi
  printf '%s' "$value"
}

instruqt_variable() { # NAME
  command -v agent >/dev/null || return 0
  instruqt variable get "$1" 2>/dev/null </dev/null | head -n 1 || true
}

find_sandbox() { # sets HELD, FOUND_IN, HOLDER and GENERATION (empty where it is not known)
  HOLDER=${SANDBOX_HOLDER:-} GENERATION=${SANDBOX_GENERATION:-}
  HELD=$(noted SANDBOX_ID) FOUND_IN=$SANDBOX_ENV_FILE
  if [[ -n $HELD ]]; then
    HOLDER=$(noted SANDBOX_HOLDER) GENERATION=$(noted SANDBOX_GENERATION)
  elif [[ -n ${SANDBOX_ID:-} ]]; then
    HELD=$SANDBOX_ID FOUND_IN=SANDBOX_ID
  else
    HELD=$(instruqt_variable SANDBOX_ID) FOUND_IN="Instruqt's variable SANDBOX_ID"
    [[ -n $HOLDER ]] || HOLDER=$(instruqt_variable SANDBOX_HOLDER)
    GENERATION=$(instruqt_variable SANDBOX_GENERATION)
  fi
  HOLDER=${HOLDER:-${_SANDBOX_ID:-${INSTRUQT_PARTICIPANT_ID:-}}}
  [[ $GENERATION =~ ^[1-9][0-9]{0,17}$ ]] || GENERATION=''
}

must_be_held() { # what was found is a sandbox of somebody
  must_be_id "$FOUND_IN" "$HELD"
  [[ -n $HOLDER ]] || die "$EXIT_CONFIG" "it is unknown who holds sandbox $HELD: set SANDBOX_HOLDER"
  must_be_id SANDBOX_HOLDER "$HOLDER"
}
# --- end of what is the same in these two -----------------------------------------------------------------------

readable() { # whether the answer is this sandbox's allocation
  SANDBOX_EXPIRES_AT=$(field expires_at)
  [[ $(field sandbox_id) == "$HELD" && $SANDBOX_EXPIRES_AT =~ ^[0-9]+$ ]]
}

note_end() { # in the file that the sandbox was found in
  local new
  new=$(mktemp "$SANDBOX_ENV_FILE.XXXXXX" 2>/dev/null) || return
  sed "s/^SANDBOX_EXPIRES_AT='[0-9]*'\$/SANDBOX_EXPIRES_AT='$SANDBOX_EXPIRES_AT'/" "$SANDBOX_ENV_FILE" >"$new" &&
    mv -f "$new" "$SANDBOX_ENV_FILE" && return
  rm -f "$new"
  return 1
}

case ${1-} in
  -h | --help) usage && exit ;;
esac
if (($# > 1)) || [[ ! ${1-3600} =~ ^[1-9][0-9]{0,5}$ ]]; then
  die "$EXIT_USAGE" "give a number of seconds from 1 to 999999, and nothing else; --help says more"
fi

SANDBOX_ENV_FILE=${SANDBOX_ENV_FILE:-${HOME:-/root}/.sandbox-broker.env}
find_sandbox
[[ -n $HELD ]] ||
  die "$EXIT_CONFIG" "nothing to extend: there is no $SANDBOX_ENV_FILE with a SANDBOX_ID, nor SANDBOX_ID itself"
must_be_held
read_settings

BODY="{\"generation\": ${GENERATION:-null}, \"for_s\": ${1-3600}}"
post "/v1/sandboxes/$HELD/extend" "X-Instruqt-Sandbox-ID: $HOLDER"
[[ $VERDICT == ok ]] || die "$EXIT_REFUSED" "sandbox $HELD was not extended: $WHY"
[[ $FOUND_IN != "$SANDBOX_ENV_FILE" ]] || note_end || say "note: $SANDBOX_ENV_FILE cannot be written"
if command -v agent >/dev/null; then
  instruqt variable set SANDBOX_EXPIRES_AT "$SANDBOX_EXPIRES_AT" >/dev/null 2>&1 </dev/null ||
    say "note: Instruqt's variable SANDBOX_EXPIRES_AT could not be set"
fi
say "sandbox $HELD is kept until $SANDBOX_EXPIRES_AT (Unix seconds)"
