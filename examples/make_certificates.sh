#!/bin/sh
# Makes what TLS needs, with openssl: an authority, and a certificate for each machine.
#
#     examples/make_certificates.sh FOLDER NAME[,NAME...] ...
#
# Each further argument is one machine: the names and addresses by which the others reach it,
# joined by commas. Its files are called after the first of them. In FOLDER lie then
#
#     ca.pem             for every machine: whom to trust
#     NAME.pem NAME.key  for the machine NAME alone
#     ca.key             for no machine: whoever has it can make more certificates
#
# The authority is made once and used again: run it again to add machines, or to renew them.

set -eu

if [ $# -lt 2 ]; then
    sed -n '2,13s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
folder=$1
shift
for machine in "$@"; do
    if [ "${machine%%,*}" = ca ]; then
        echo "A machine named ca would take the place of the authority's files: name it otherwise." >&2
        exit 2
    fi
done
mkdir -p "$folder"
cd "$folder"
umask 077

new_key() {
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null
}

if [ ! -e ca.key ]; then
    new_key ca.key
    openssl req -x509 -new -key ca.key -out ca.pem -days 3650 -subj "/CN=quorate authority" \
        -addext "keyUsage=critical,keyCertSign,cRLSign"
fi

for machine in "$@"; do
    name=${machine%%,*}
    {
        echo "basicConstraints=critical,CA:false"
        echo "keyUsage=critical,digitalSignature"
        # A machine dials, and may have to start the coordinator that others dial.
        echo "extendedKeyUsage=serverAuth,clientAuth"
        echo "subjectKeyIdentifier=hash"
        echo "authorityKeyIdentifier=keyid"
        printf "subjectAltName="
        echo "$machine" | tr , '\n' | sed -E 's/^([0-9.]+|.*:.*)$/IP:\1/; t; s/^/DNS:/' | paste -sd, -
    } >"$name.extensions"
    new_key "$name.key.new"
    openssl req -new -key "$name.key.new" -subj "/CN=$name" |
        openssl x509 -req -CA ca.pem -CAkey ca.key -CAcreateserial -days 365 \
            -extfile "$name.extensions" -out "$name.pem.new" 2>/dev/null
    # Whole files take the place of the old ones: a coordinator may read them at any moment.
    mv "$name.key.new" "$name.key"
    mv "$name.pem.new" "$name.pem"
    rm "$name.extensions"
    echo "$PWD/$name.pem"
done
