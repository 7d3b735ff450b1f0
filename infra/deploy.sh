#!/bin/sh
# Creates what the Prefect server does not have yet. What is there stays as its users left it: `prefect deploy` would put
# schedules back to what prefect.yaml says, at every start of a worker.
set -eu
prefect work-pool inspect saemill > /dev/null 2>&1 || prefect work-pool create saemill --type process
for name in pipeline sweep nightly; do
    prefect deployment inspect "$name/$name" > /dev/null 2>&1 ||
        prefect --no-prompt deploy --prefect-file infra/prefect.yaml --name "$name"
done
