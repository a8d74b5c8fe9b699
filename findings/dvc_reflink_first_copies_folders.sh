#!/usr/bin/env bash
# DVC 3.67.1: with `cache.type = reflink,hardlink,copy`, on a file system without reflinks, `dvc repro` hard-links an output
# that is a file, and copies an output that is a folder: its files are there twice. `dvc checkout` of the same folder makes
# hard links. With `hardlink,reflink,copy` both are linked at once. No message tells of the copies.
#
# Seen on ext4: links of a file in the folder 1, of the file beside it 2; after removing the folder and `dvc checkout` 2;
# with hardlink first 2 and 2. On a file system with reflinks there is nothing to see: the script ends with a line.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
echo 0123456789 > plain
if cp --reflink=always plain shared 2> /dev/null; then
    echo "this file system has reflinks: not tried"
    exit 0
fi
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check dvc==3.67.1 dvc-data==3.18.3 dvc-objects==5.2.0
export PATH="$folder/venv/bin:$PATH"

links() { # links of both outputs by a cache type
    mkdir "$folder/$1"
    cd "$folder/$1"
    dvc init --quiet --no-scm
    dvc config cache.type "$1"
    cat > dvc.yaml <<'YAML'
stages:
  make:
    cmd: mkdir folder; head -c 3000000 /dev/zero > folder/weights.bin; head -c 2000000 /dev/zero > weights.bin
    outs: [folder, weights.bin]
YAML
    dvc repro --quiet
    stat -c %h folder/weights.bin weights.bin | tr '\n' ' '
    rm -r folder
    dvc checkout --quiet
    stat -c %h folder/weights.bin
}

reflink_first=$(links reflink,hardlink,copy)
hardlink_first=$(links hardlink,reflink,copy)
echo "links of the folder's file, of the file, of the folder's file after checkout"
echo "reflink,hardlink,copy: $reflink_first"
echo "hardlink,reflink,copy: $hardlink_first"
[ "$reflink_first" = "1 2 2" ] && [ "$hardlink_first" = "2 2 2" ]
