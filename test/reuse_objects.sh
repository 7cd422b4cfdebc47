#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A compiler's launcher for CMake: reuse_objects.sh BUILD COMPILER ARGUMENT... takes the object that another build in
# the folder BUILD made of the same source, with the file that lists what it depends on; without one it compiles.
made=$1 object='' source='' before=''
shift
for word; do
  case $before in
    -o) object=$word ;;
    -c) source=$word ;;
  esac
  before=$word
done
if [[ -e $made/$object.d ]] && cmp -s "$source" "$made/${source#"$PWD/"}"; then
  cp "$made/$object" "$object" && cp "$made/$object.d" "$object.d" && exit
fi
exec "$@"
