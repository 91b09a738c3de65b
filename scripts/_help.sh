# Sourced by scripts whose first argument is a file or folder: an option in its place prints what
# the head of the script says.

if [[ "${1:-}" == -* ]]; then
  [[ "$1" == -h || "$1" == --help ]] || { echo "no option may come first: $1" >&2; exit 2; }
  sed -n '2,/^[^#]/ s/^# \{0,1\}//p' "$0"
  exit 0
fi
